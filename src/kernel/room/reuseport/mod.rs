//! SO_REUSEPORT for services that do not set it. `on_ports` and `first_comer` give it to sockets as they are bound,
//! by programs of control groups. `forget` has the kernel forget that the sockets had it.

mod first_comer;
mod first_comer_programs;
mod forget;
mod on_ports;
mod on_ports_programs;

pub(crate) use self::first_comer::Lent;
pub(crate) use self::forget::forget;
pub(crate) use self::on_ports::{Binding, Bindings, Newcomers, programs};
