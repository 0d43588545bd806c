//! Listening sockets from the process that started this one, by the protocol of sd_listen_fds(3).

use anyhow::{Context, Result, ensure};
use listenfd::ListenFd;
use mio::net::TcpListener;

/// All of them. To be called once, before we open any file.
pub fn listeners() -> Result<Vec<TcpListener>> {
    let mut sockets = ListenFd::from_env();
    ensure!(
        sockets.len() > 0,
        "LISTEN_FDS and LISTEN_PID name no socket for us"
    );
    (0..sockets.len())
        .map(|nth| {
            let what = || format!("socket {nth} of LISTEN_FDS");
            let listener = sockets.take_tcp_listener(nth).with_context(what)?;
            let listener = listener.with_context(what)?;
            listener.set_nonblocking(true)?;
            Ok(TcpListener::from_std(listener))
        })
        .collect()
}
