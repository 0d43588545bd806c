//! Faults on demand: tests ask for one to see what happens to the gate. Only debug builds have
//! faults.

pub(crate) fn is(fault: &str) -> bool {
    let wanted = |all: String| all.split(',').any(|wanted| wanted == fault);
    cfg!(debug_assertions) && std::env::var("SYNGATE_FAULT").is_ok_and(wanted)
}

/// `SYNGATE_FAULT=panic:Start` panics before the run carries out the task `Start`; `hang:Start` hangs
/// there for ever.
pub(crate) fn before(task: &impl std::fmt::Debug) {
    #[cfg(debug_assertions)]
    if let Ok(wanted) = std::env::var("SYNGATE_FAULT") {
        let here = |name: &str| format!("{task:?}").starts_with(name);
        match wanted.split_once(':') {
            Some(("panic", name)) if here(name) => panic!("as a bug would, before {task:?}"),
            Some(("hang", name)) if here(name) => loop {
                std::thread::park();
            },
            _ => (),
        }
    }
    let _ = task;
}
