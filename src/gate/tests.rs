//! The gate over a backend that fails on demand: each closed gate is open in the end, in any order
//! of failing calls.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use proptest::prelude::*;

/// A simulated kernel: the ports that it shuts, and the calls that fail.
#[derive(Debug, Default)]
struct Kernel {
    standing: Option<PortSet>,
    owner_alive: bool,
    calls: Vec<&'static str>,
    fail: Vec<&'static str>,
    /// The kernel lists other ports than those that it was told to close.
    lies: bool,
}

impl Kernel {
    fn call(&mut self, name: &'static str) -> Result<()> {
        self.calls.push(name);
        anyhow::ensure!(!self.fail.contains(&name), "{name} fails");
        Ok(())
    }

    /// The ports that clients find shut. As with nft, the rules go with their owner.
    fn shut(&self) -> PortSet {
        match &self.standing {
            Some(ports) if self.owner_alive => ports.clone(),
            _ => PortSet::EMPTY,
        }
    }
}

struct Fake(Rc<RefCell<Kernel>>);

impl Backend for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn install(&mut self, ports: &PortSet, _: Deadline) -> Result<()> {
        let mut kernel = self.0.borrow_mut();
        kernel.call("install")?;
        kernel.standing = Some(ports.clone());
        Ok(())
    }

    fn set_ports(&mut self, ports: &PortSet, _: Deadline) -> Result<()> {
        let mut kernel = self.0.borrow_mut();
        kernel.call("set_ports")?;
        kernel.standing = Some(ports.clone());
        Ok(())
    }

    fn shut(&mut self) -> Result<PortSet> {
        let mut kernel = self.0.borrow_mut();
        kernel.call("shut")?;
        Ok(if kernel.lies {
            PortSet::EMPTY
        } else {
            kernel.shut()
        })
    }

    fn syns_stopped(&mut self) -> Result<u64> {
        self.0.borrow_mut().call("syns_stopped")?;
        Ok(7)
    }

    fn exposed(&self) -> bool {
        false
    }

    fn intact(&mut self) -> bool {
        true
    }

    fn empties_queues(&self) -> bool {
        false
    }

    fn remarks(&self) -> &[Remark] {
        &[]
    }

    fn remove(&mut self) -> Result<()> {
        let mut kernel = self.0.borrow_mut();
        kernel.call("remove")?;
        kernel.standing = None;
        Ok(())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.0.borrow_mut().owner_alive = false;
    }
}

fn ports(text: &str) -> PortSet {
    PortSet::parse(text, |_| None).unwrap()
}

fn kernel(fail: &[&'static str]) -> Rc<RefCell<Kernel>> {
    Rc::new(RefCell::new(Kernel {
        owner_alive: true,
        fail: fail.to_vec(),
        ..Kernel::default()
    }))
}

fn close(kernel: &Rc<RefCell<Kernel>>) -> Result<Gate> {
    let until = Instant::now() + Duration::from_secs(30);
    Gate::close(Box::new(Fake(Rc::clone(kernel))), &ports("80,443"), until)
}

#[test]
fn closes_opens_and_counts() {
    let kernel = kernel(&[]);
    let mut gate = close(&kernel).unwrap();
    assert_eq!(kernel.borrow().shut(), ports("80,443"));
    assert!(gate.stands().unwrap());
    gate.shut_only(ports("443")).unwrap();
    assert_eq!(kernel.borrow().shut(), ports("443"));
    gate.open().unwrap();
    assert_eq!(kernel.borrow().shut(), PortSet::EMPTY);
    assert_eq!(gate.remove().unwrap(), Some(7));
    drop(gate);
    let calls = &kernel.borrow().calls;
    assert_eq!(calls.iter().filter(|c| **c == "remove").count(), 1);
}

#[test]
fn a_gate_that_is_not_what_was_asked_for_is_no_gate() {
    let kernel = kernel(&[]);
    kernel.borrow_mut().lies = true;
    let error = close(&kernel).err().unwrap();
    assert!(error.to_string().contains("lists none"), "{error}");
    assert_eq!(kernel.borrow().standing, None, "taken away again");
}

#[test]
fn a_gate_that_cannot_be_read_back_is_no_gate() {
    let kernel = kernel(&["shut"]);
    assert!(close(&kernel).is_err());
    assert_eq!(kernel.borrow().standing, None);
}

#[test]
fn opening_has_a_second_way_and_a_third() {
    let one = kernel(&["set_ports"]);
    let mut gate = close(&one).unwrap();
    gate.open().unwrap();
    assert_eq!(one.borrow().standing, None, "removed instead");

    let both = kernel(&["set_ports", "remove"]);
    let mut gate = close(&both).unwrap();
    assert!(gate.open().is_err());
    drop(gate);
    assert_eq!(both.borrow().shut(), PortSet::EMPTY, "gone with its owner");
}

#[test]
fn a_panic_opens() {
    let kernel = kernel(&[]);
    let inside = Rc::clone(&kernel);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _gate = close(&inside).unwrap();
        assert!(inside.borrow().shut().contains(80));
        panic!("as a bug would");
    }));
    assert!(panicked.is_err());
    assert_eq!(kernel.borrow().standing, None);
}

proptest! {
    #[test]
    fn always_open_in_the_end(
        fail in prop::sample::subsequence(
            vec!["install", "set_ports", "shut", "syns_stopped", "remove"], 0..=5),
        steps in prop::collection::vec(0u8..5, 0..8),
    ) {
        let kernel = kernel(&fail);
        if let Ok(mut gate) = close(&kernel) {
            for step in steps {
                let _ = match step {
                    0 => gate.shut_only(ports("80")),
                    1 => gate.shut_only(ports("80,443")),
                    2 => gate.open(),
                    3 => gate.remove().map(drop),
                    _ => gate.stands().map(drop),
                };
            }
        }
        prop_assert_eq!(kernel.borrow().shut(), PortSet::EMPTY);
        prop_assert!(!kernel.borrow().owner_alive);
    }
}
