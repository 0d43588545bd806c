//! The places of listeners in the arrays of programs.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::libc;

use crate::kernel::bpf::leave_choice_to_kernel;
use crate::kernel::maps::Listeners;

/// How long a listener may still be in the array of a program that no group has any more: the kernel frees that a
/// moment later (`bpf_map_free_deferred()`).
pub(crate) const FREED_WITHIN: Duration = Duration::from_millis(500);
const TRY_EVERY: Duration = Duration::from_millis(2);

/// Puts the sockets into the first places of the array, in their order.
///
/// # Errors
/// As of [`Listeners::put`].
pub(crate) fn put_all<'a, S: AsFd + 'a>(
    array: &Listeners,
    sockets: impl IntoIterator<Item = &'a S>,
) -> io::Result<()> {
    put(array, sockets, |_| ())
}

/// The same before anything waits. A run that was killed with its guard may have left a program, which goes on with
/// its array: it is detached.
///
/// # Errors
/// As of [`Listeners::put`].
pub(crate) fn put_first<'a, S: AsFd + 'a>(
    array: &Listeners,
    sockets: impl IntoIterator<Item = &'a S>,
) -> io::Result<()> {
    put(array, sockets, |socket| {
        let _ = leave_choice_to_kernel(socket.as_fd());
    })
}

/// The same where another process that has died may have left a program, which goes on with its array. `end` puts
/// another one in its place, and the kernel frees the array a moment later.
///
/// # Errors
/// As of [`Listeners::put`].
pub(crate) fn put_from_dead<'a, S: AsFd + 'a>(
    array: &Listeners,
    sockets: impl IntoIterator<Item = &'a S>,
    end: impl Fn(),
) -> io::Result<()> {
    put(array, sockets, |_| end())
}

/// Whether the socket is in another array now.
pub(crate) fn is_elsewhere(socket: &impl AsFd) -> bool {
    let array = Listeners::new(1);
    array.is_ok_and(|array| {
        let put = array.put(0, socket.as_fd());
        put.is_err_and(|error| is_busy(&error))
    })
}

/// The socket is in another array, and a socket can be in one only.
pub(crate) fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

fn put<'a, S: AsFd + 'a>(
    array: &Listeners,
    sockets: impl IntoIterator<Item = &'a S>,
    if_busy: impl Fn(&S),
) -> io::Result<()> {
    let give_up = Instant::now() + FREED_WITHIN;
    for (socket, place) in sockets.into_iter().zip(0..) {
        let mut put = array.put(place, socket.as_fd());
        if put.as_ref().is_err_and(is_busy) {
            if_busy(socket);
        }
        while put.as_ref().is_err_and(is_busy) && Instant::now() < give_up {
            std::thread::sleep(TRY_EVERY);
            put = array.put(place, socket.as_fd());
        }
        put?;
    }
    Ok(())
}
