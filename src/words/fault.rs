//! Faults on demand, so that tests can see what becomes of the gate. In debug builds only: a
//! release build has none of it.

/// Whether this fault, of no particular task, was asked for.
pub fn is(fault: &str) -> bool {
    let wanted = |all: String| all.split(',').any(|wanted| wanted == fault);
    cfg!(debug_assertions) && std::env::var("SYNGATE_FAULT").is_ok_and(wanted)
}

/// `SYNGATE_FAULT=panic:Start` panics before the task of that name is done, `hang:Start` never
/// comes back from there.
pub fn before(task: &impl std::fmt::Debug) {
    #[cfg(debug_assertions)]
    if let Ok(wanted) = std::env::var("SYNGATE_FAULT")
        && let Some((fault, name)) = wanted.split_once(':')
        && format!("{task:?}").starts_with(name)
    {
        match fault {
            "panic" => panic!("as a bug would, before {task:?}"),
            "hang" => loop {
                std::thread::park();
            },
            _ => (),
        }
    }
    let _ = task;
}
