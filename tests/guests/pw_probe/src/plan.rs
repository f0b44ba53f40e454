//! What is to be done, and what has been seen: the state of the VM.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use serde_json::Value;

use crate::host;

const VM_CONFIGURATION: i32 = 6;
const PLUGIN_CONFIGURATION: i32 = 7;

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

#[derive(Default)]
struct State {
    /// By root context.
    plans: HashMap<i32, Rc<Value>>,
    /// The root context of each stream context.
    roots: HashMap<i32, i32>,
    calls: HashMap<i32, Call>,
    names: HashMap<String, i64>,
    runs: HashMap<(i32, String), usize>,
}

/// A callout or a gRPC stream.
#[derive(Clone)]
pub struct Call {
    /// Who made it.
    pub context: i32,
    /// Steps, or an object of them by callback.
    pub then: Rc<Value>,
}

pub fn create(context: i32, parent: i32) {
    if parent == 0 {
        let plan = host::buffer(VM_CONFIGURATION, 0, i32::MAX).ok().and_then(|text| serde_json::from_slice(&text).ok());
        STATE.with_borrow_mut(|state| state.plans.insert(context, Rc::new(plan.unwrap_or_default())));
    } else {
        STATE.with_borrow_mut(|state| state.roots.insert(context, parent));
    }
}

pub fn configure(root: i32) {
    let Ok(text) = host::buffer(PLUGIN_CONFIGURATION, 0, i32::MAX) else { return };
    if let Ok(plan) = serde_json::from_slice(&text) {
        STATE.with_borrow_mut(|state| state.plans.insert(root, Rc::new(plan)));
    }
}

/// The plan of a context's root.
pub fn of(context: i32) -> Rc<Value> {
    STATE.with_borrow(|state| {
        let root = state.roots.get(&context).unwrap_or(&context);
        state.plans.get(root).cloned().unwrap_or_default()
    })
}

/// Counts the runs of a callback in a context, from 1.
pub fn count(context: i32, callback: &str) -> usize {
    STATE.with_borrow_mut(|state| {
        let runs = state.runs.entry((context, callback.to_owned())).or_default();
        *runs += 1;
        *runs
    })
}

pub fn called(call: i64, context: i32, then: &Value) {
    let call = i32::try_from(call).unwrap_or(-1);
    STATE.with_borrow_mut(|state| state.calls.insert(call, Call { context, then: Rc::new(then.clone()) }));
}

pub fn call(call: i32) -> Option<Call> {
    STATE.with_borrow(|state| state.calls.get(&call).cloned())
}

/// Gives a number a name, which `$name` stands for in later steps of this VM.
pub fn set(name: &str, number: i64) {
    STATE.with_borrow_mut(|state| state.names.insert(name.to_owned(), number));
}

pub fn get(name: &str) -> i64 {
    STATE.with_borrow(|state| state.names.get(name).copied().unwrap_or(-1))
}
