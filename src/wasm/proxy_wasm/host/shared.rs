//! Shared data and shared queues: of all VMs with the same `vm_id`.

use super::call::{Answer, Call};
use crate::capability::shared::{QueueError, SetError};
use crate::wasm::proxy_wasm::abi::Status;
use crate::wasm::proxy_wasm::state::Purpose;

pub fn get_data(call: &mut Call<'_>, key: u32, key_size: u32, to: u32, size: u32, cas: u32) -> Answer {
    let (key, state) = call.read(key, key_size)?;
    let (value, version) = state.vm.shared.get(key).ok_or(Status::NotFound)?;
    call.give(&value, to, size)?;
    Ok(call.write_u32(cas, version)?)
}

pub fn set_data(call: &mut Call<'_>, key: u32, key_size: u32, value: u32, size: u32, cas: u32) -> Answer {
    let (key, value, state) = call.read_two((key, key_size), (value, size))?;
    let set = state.vm.shared.set(key, value, cas);
    if let Err(full @ SetError::Full) = &set {
        state.at_limit("proxy_set_shared_data", full);
    }
    // Of all statuses over which SDKs do not panic, the only one that says that the value was not set.
    Ok(set.map_err(|_| Status::CasMismatch)?)
}

/// Whoever registers a queue last is told of its messages, as long as it is there: the root context of this VM. Where there can
/// be no more queues, it gets an id of none.
pub fn register_queue(call: &mut Call<'_>, name: u32, name_size: u32, to: u32) -> Answer {
    let (name, state) = call.read(name, name_size)?;
    let (_, root) = state.contexts.root()?;
    // A trial takes nothing away from those that run.
    let listener = (state.purpose != Purpose::Trial).then(|| std::sync::Arc::downgrade(&root.listener));
    let id = state.vm.shared.register_queue(name, listener);
    let id = id.unwrap_or_else(|full| {
        state.at_limit("proxy_register_shared_queue", &full);
        0
    });
    Ok(call.write_u32(to, id)?)
}

pub fn resolve_queue(call: &mut Call<'_>, vm_id: u32, vm_id_size: u32, name: u32, size: u32, to: u32) -> Answer {
    let (vm_id, name, state) = call.read_two((vm_id, vm_id_size), (name, size))?;
    let vm_id = match vm_id {
        [] => state.vm.vm_id.clone(),
        vm_id => String::from_utf8_lossy(vm_id).into_owned(),
    };
    let id = state.services.capabilities.shared.resolve_queue(&vm_id, name).ok_or(Status::NotFound)?;
    Ok(call.write_u32(to, id)?)
}

pub fn dequeue(call: &mut Call<'_>, id: u32, to: u32, size: u32) -> Answer {
    let message = call.state().services.capabilities.shared.dequeue(id).map_err(|error| match error {
        QueueError::Empty => Status::Empty,
        QueueError::NotFound | QueueError::Full => Status::NotFound,
    })?;
    call.give(&message, to, size)
}

/// A message for which there is no room is lost: there is nobody who could wait for it.
pub fn enqueue(call: &mut Call<'_>, id: u32, from: u32, size: u32) -> Answer {
    let (message, state) = call.read(from, size)?;
    match state.services.capabilities.shared.enqueue(id, message) {
        Ok(()) => Ok(()),
        Err(full @ QueueError::Full) => {
            state.at_limit("proxy_enqueue_shared_queue", &full);
            Ok(())
        }
        Err(QueueError::Empty | QueueError::NotFound) => Err(Status::NotFound.into()),
    }
}
