//! What goes on while the run waits for a program that changes or lists rules.

use std::fmt;
use std::rc::Rc;

/// Does nothing by default. The wait may come inside of what it does, so it must bear that.
#[derive(Clone, Default)]
pub(crate) struct Meanwhile(Option<Rc<dyn Fn()>>);

impl Meanwhile {
    pub(crate) fn new(work: impl Fn() + 'static) -> Meanwhile {
        Meanwhile(Some(Rc::new(work)))
    }

    pub(crate) fn work(&self) {
        if let Some(work) = &self.0 {
            work();
        }
    }
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Some(_) => "Meanwhile(work)",
            None => "Meanwhile(nothing)",
        })
    }
}
