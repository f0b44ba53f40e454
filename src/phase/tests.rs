//! `Chain` and `Walk` against a plain model, which is the prose of the configuration's reference and nothing else.

use proptest::prelude::*;

use super::{Action, Chain, End, Ext, Phase, Verdict};

/// A chain as one would write it down.
type Plugins = Vec<Vec<Script>>;

#[derive(Clone, Debug)]
struct Script {
    on_ext: [Action; 3],
    result: Result,
}

/// What a run of a script gives.
#[derive(Clone, Copy, Debug)]
enum Result {
    Verdict(Verdict),
    /// A failure, with `on_failure = "open"`.
    Skipped,
}

/// Plugin and script, by position.
type Place = (usize, usize);

/// All that can be seen of the evaluation of a chain.
#[derive(Debug, Default, PartialEq, Eq)]
struct Evaluation {
    ran: Vec<Place>,
    end: Option<End>,
    upstream: Option<String>,
    unsupported: Vec<Place>,
    /// After which the next script is that of another plugin.
    left: Vec<Place>,
}

mod model {
    //! The model: nested lists and two loops.

    use super::*;

    /// Where a chain goes on after a script.
    enum Next {
        Script,
        Plugin(usize),
        Nowhere,
    }

    pub fn evaluate(plugins: &Plugins, phase: Phase) -> Evaluation {
        let mut seen = Evaluation::default();
        let mut p = 0;
        'plugins: while p < plugins.len() {
            for (s, script) in plugins[p].iter().enumerate() {
                if s == 0 {
                    seen.left.extend(seen.ran.last());
                }
                seen.ran.push((p, s));
                match next(script, phase, (p, s), &mut seen) {
                    Next::Script => {}
                    Next::Plugin(later) => {
                        p = later;
                        continue 'plugins;
                    }
                    Next::Nowhere => break 'plugins,
                }
            }
            p += 1;
        }
        seen
    }

    fn next(script: &Script, phase: Phase, at: Place, seen: &mut Evaluation) -> Next {
        let Result::Verdict(verdict) = script.result else { return Next::Script };
        let meaning = match verdict {
            Verdict::Ok => Action::Ok,
            Verdict::Break => Action::Break,
            Verdict::Finish => Action::Finish,
            Verdict::Error => Action::Error,
            Verdict::Return => Action::Return,
            Verdict::Ext(Ext::Ext1) => script.on_ext[0].clone(),
            Verdict::Ext(Ext::Ext2) => script.on_ext[1].clone(),
            Verdict::Ext(Ext::Ext3) => script.on_ext[2].clone(),
        };
        if !allowed(&meaning, phase) {
            seen.unsupported.push(at);
            return Next::Script;
        }
        let end = |seen: &mut Evaluation, end| {
            seen.end = Some(end);
            Next::Nowhere
        };
        match meaning {
            Action::Ok => Next::Script,
            Action::Break => Next::Plugin(at.0 + 1),
            Action::Finish => Next::Nowhere,
            Action::Error => end(seen, End::Error),
            Action::Return => end(seen, End::Return),
            Action::Status(code) => end(seen, End::Status(code)),
            Action::Goto(plugin) => Next::Plugin(plugin),
            Action::Upstream(name) => {
                seen.upstream = Some(name);
                Next::Script
            }
        }
    }

    /// The column "verdicts" of the table of phases. A status ends the request like `return`; an upstream is chosen while
    /// it is open which one the request goes to.
    fn allowed(meaning: &Action, phase: Phase) -> bool {
        match (phase.directive(), meaning) {
            (_, Action::Ok | Action::Break | Action::Finish | Action::Goto(_)) => true,
            ("wasm_access", _) => true,
            ("wasm_serverless", meaning) => !matches!(meaning, Action::Upstream(_)),
            (_, Action::Error | Action::Return | Action::Status(_) | Action::Upstream(_)) => false,
        }
    }
}

/// The same by the code under test.
fn evaluate(plugins: &Plugins, phase: Phase) -> Evaluation {
    let chain = chain(plugins);
    let mut seen = Evaluation::default();
    let mut walk = chain.walk(phase);
    while let Some((place, result)) = walk.script() {
        assert_eq!(seen.end, None, "a script runs after the request has ended");
        seen.ran.push(*place);
        match result {
            Result::Skipped => walk.skip(),
            Result::Verdict(verdict) => {
                let step = walk.apply(*verdict);
                seen.end = step.end;
                seen.upstream = step.upstream.map(str::to_owned).or(seen.upstream);
                if step.unsupported {
                    seen.unsupported.push(*place);
                }
            }
        }
        assert_eq!(walk.ran().map(|(ran, _)| ran), Some(place));
        if walk.is_at_next_plugin() {
            seen.left.push(*place);
        }
    }
    seen
}

fn chain(plugins: &Plugins) -> Chain<(Place, Result)> {
    let mut chain = Chain::default();
    for (p, scripts) in plugins.iter().enumerate() {
        chain.add_plugin();
        for (s, script) in scripts.iter().enumerate() {
            chain.add_script(((p, s), script.result), script.on_ext.clone());
        }
    }
    chain
}

fn script(verdict: Verdict, action: Action) -> Script {
    Script { on_ext: [action.clone(), action.clone(), action], result: Result::Verdict(verdict) }
}

fn ok() -> Script {
    script(Verdict::Ok, Action::Ok)
}

/// Every action that a script of plugin `plugin` among `plugins` can have.
fn actions(plugin: usize, plugins: usize) -> Vec<Action> {
    let mut actions = vec![
        Action::Ok,
        Action::Break,
        Action::Finish,
        Action::Error,
        Action::Return,
        Action::Upstream("a".into()),
        Action::Upstream("b".into()),
        Action::Status(429),
    ];
    actions.extend((plugin + 1..plugins).map(Action::Goto));
    actions
}

fn any_script(plugin: usize, plugins: usize) -> impl Strategy<Value = Script> {
    let action = || proptest::sample::select(actions(plugin, plugins));
    let verdict = || proptest::sample::select(&Verdict::ALL[..]).prop_map(Result::Verdict);
    // Most scripts let the chain go on, or most chains would end at once.
    let result = prop_oneof![
        4 => Just(Result::Verdict(Verdict::Ok)),
        6 => verdict(),
        1 => Just(Result::Skipped),
    ];
    ([action(), action(), action()], result).prop_map(|(on_ext, result)| Script { on_ext, result })
}

fn any_plugins() -> impl Strategy<Value = Plugins> {
    (0..6usize).prop_flat_map(|count| {
        let plugins = (0..count).map(|plugin| prop::collection::vec(any_script(plugin, count), 0..5));
        plugins.collect::<Vec<_>>()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_chain_does_what_the_model_does(plugins in any_plugins(), phase in proptest::sample::select(&Phase::ALL[..])) {
        prop_assert_eq!(evaluate(&plugins, phase), model::evaluate(&plugins, phase));
    }

    /// The configuration allows no `goto:` backwards; if one came through, a chain would still end.
    #[test]
    fn a_chain_ends(mut plugins in any_plugins(), to in 0..8usize) {
        for script in plugins.iter_mut().flatten() {
            script.on_ext = [to; 3].map(Action::Goto);
        }
        let scripts = plugins.iter().map(Vec::len).sum::<usize>();
        prop_assert!(evaluate(&plugins, Phase::Access).ran.len() <= scripts);
    }
}

/// Three plugins of two scripts, with a plugin that is switched off between them: every verdict, with every action, in
/// every position and phase.
#[test]
fn every_verdict_in_every_position() {
    let shape: Plugins = vec![vec![ok(), ok()], vec![], vec![ok(), ok()], vec![ok(), ok()]];
    let mut compared = 0;
    for phase in Phase::ALL {
        for (p, s) in [(0, 0), (0, 1), (2, 0), (2, 1), (3, 0), (3, 1)] {
            for verdict in Verdict::ALL {
                for action in actions(p, shape.len()) {
                    let mut plugins = shape.clone();
                    plugins[p][s] = script(verdict, action);
                    let (given, expected) = (evaluate(&plugins, phase), model::evaluate(&plugins, phase));
                    assert_eq!(given, expected, "{phase}, {:?} at {:?}", plugins[p][s], (p, s));
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 6 * 8 * (2 * (8 + 3) + 2 * (8 + 1) + 2 * 8));
}

/// The same by hand, for one script in the middle of `wasm_access`: what the model itself must say.
#[test]
fn what_follows_a_verdict() {
    use Verdict::{Break, Error, Finish, Ok, Return};
    let all = vec![(0, 0), (0, 1), (1, 0), (2, 0)];
    let up_to_here = vec![(0, 0)];
    let next_plugin = vec![(0, 0), (1, 0), (2, 0)];
    let ext = Verdict::Ext(Ext::Ext2);
    for (verdict, action, ran, end, upstream) in [
        (Ok, Action::Error, &all, None, None),
        (Break, Action::Ok, &next_plugin, None, None),
        (Finish, Action::Ok, &up_to_here, None, None),
        (Error, Action::Ok, &up_to_here, Some(End::Error), None),
        (Return, Action::Ok, &up_to_here, Some(End::Return), None),
        (ext, Action::Ok, &all, None, None),
        (ext, Action::Break, &next_plugin, None, None),
        (ext, Action::Finish, &up_to_here, None, None),
        (ext, Action::Error, &up_to_here, Some(End::Error), None),
        (ext, Action::Return, &up_to_here, Some(End::Return), None),
        (ext, Action::Status(402), &up_to_here, Some(End::Status(402)), None),
        (ext, Action::Upstream("other".into()), &all, None, Some("other")),
        (ext, Action::Goto(2), &vec![(0, 0), (2, 0)], None, None),
    ] {
        let plugins = vec![vec![script(verdict, action.clone()), ok()], vec![ok()], vec![ok()]];
        let upstream = upstream.map(str::to_owned);
        let left = ran.windows(2).filter(|pair| pair[0].0 != pair[1].0).map(|pair| pair[0]).collect();
        let expected = Evaluation { ran: ran.clone(), end, upstream, unsupported: vec![], left };
        assert_eq!(evaluate(&plugins, Phase::Access), expected, "{verdict:?}, {action:?}");
    }
}

/// Each of `on_ext1`, `on_ext2`, `on_ext3` belongs to its own verdict.
#[test]
fn the_ext_verdicts_are_three() {
    for (ext, code) in Ext::ALL.into_iter().zip([401, 402, 403]) {
        let on_ext = [401, 402, 403].map(Action::Status);
        let plugins = vec![vec![Script { on_ext, result: Result::Verdict(Verdict::Ext(ext)) }]];
        assert_eq!(evaluate(&plugins, Phase::Access).end, Some(End::Status(code)));
    }
}

/// What each phase supports, as a table.
#[test]
fn what_a_phase_supports() {
    use Phase::{Access, Serverless};
    for phase in Phase::ALL {
        for verdict in Verdict::ALL {
            for action in actions(0, 2) {
                let seen = evaluate(&vec![vec![script(verdict, action.clone())], vec![ok()]], phase);
                let supported = match (verdict, &action) {
                    (Verdict::Error | Verdict::Return, _) => [Access, Serverless].contains(&phase),
                    (Verdict::Ext(_), Action::Error | Action::Return | Action::Status(_)) => {
                        [Access, Serverless].contains(&phase)
                    }
                    (Verdict::Ext(_), Action::Upstream(_)) => phase == Access,
                    _ => true,
                };
                assert_eq!(seen.unsupported.is_empty(), supported, "{phase} {verdict:?} {action:?}");
                if !supported {
                    assert_eq!((seen.ran.len(), seen.end, seen.upstream), (2, None, None), "it is taken as `ok`");
                }
            }
        }
    }
}

#[test]
fn a_chain_without_scripts_ends_at_once() {
    for plugins in [vec![], vec![vec![]], vec![vec![], vec![]]] {
        assert!(chain(&plugins).is_empty());
        assert_eq!(evaluate(&plugins, Phase::Access), Evaluation::default());
    }
}

/// A walk that has ended stays where it is, whatever it is told.
#[test]
fn after_the_end_nothing_happens() {
    let chain = chain(&vec![vec![ok()]]);
    let mut walk = chain.walk(Phase::Access);
    walk.apply(Verdict::Return);
    for verdict in Verdict::ALL {
        let step = walk.apply(verdict);
        assert_eq!((step.end, step.upstream, step.unsupported), (None, None, false));
        assert!(walk.script().is_none());
    }
}
