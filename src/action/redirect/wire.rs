//! The messages between the run and the guard of its standby.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;

use crate::words::ended::CommandExit;

/// The hidden command of the guard process.
pub(crate) const COMMAND: &str = "standby-guard";
/// Interval between SIGKILLs to a process that does not end (it waits in the kernel, or belongs to
/// another user).
pub(crate) const KILL_EVERY: Duration = Duration::from_millis(50);
/// How long the guard keeps sending SIGKILL.
pub(crate) const KILL_FOR: Duration = Duration::from_secs(5);

/// How a standby has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// SIGKILL was needed.
    pub killed: bool,
    /// Some processes may still be there: they could not be killed, or the guard was killed.
    pub left: bool,
}

/// One byte from the run to the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Stop = b's' as isize,
    Keep = b'k' as isize,
    /// To tell that the guard is there.
    Answer = b'a' as isize,
}

impl Order {
    pub(super) fn decode(byte: u8) -> Option<Order> {
        [Order::Stop, Order::Keep, Order::Answer]
            .into_iter()
            .find(|order| *order as u8 == byte)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    Started(i32),
    NotStarted(Errno),
    Ended(CommandExit),
    Here,
    /// The last message.
    Gone(Stop),
}

/// A letter and a number in native byte order.
pub(super) type NewsBytes = [u8; 5];

impl News {
    pub(super) fn encode(self) -> NewsBytes {
        let (letter, number) = match self {
            News::Started(pid) => (b'p', pid),
            News::NotStarted(error) => (b'e', error as i32),
            News::Ended(CommandExit::Code(code)) => (b'c', code.into()),
            News::Ended(CommandExit::Signal(signal)) => (b's', signal),
            News::Here => (b'h', 0),
            News::Gone(stop) => (b'g', i32::from(stop.killed) | i32::from(stop.left) << 1),
        };
        let [a, b, c, d] = number.to_ne_bytes();
        [letter, a, b, c, d]
    }

    pub(super) fn decode([letter, a, b, c, d]: NewsBytes) -> Option<News> {
        let number = i32::from_ne_bytes([a, b, c, d]);
        Some(match (letter, number) {
            (b'p', 1..) => News::Started(number),
            (b'e', 1..) => News::NotStarted(Errno::from_raw(number)),
            (b'c', _) => News::Ended(CommandExit::Code(number.try_into().ok()?)),
            (b's', 1..=127) => News::Ended(CommandExit::Signal(number)),
            (b'h', 0) => News::Here,
            (b'g', 0..=3) => News::Gone(Stop {
                killed: number & 1 != 0,
                left: number & 2 != 0,
            }),
            _ => return None,
        })
    }
}

/// The run's end of the socket, and the bytes of a message that is not complete yet.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: UnixStream,
    came: Vec<u8>,
}

impl From<UnixStream> for Wire {
    fn from(stream: UnixStream) -> Wire {
        Wire {
            stream,
            came: Vec::new(),
        }
    }
}

impl Wire {
    /// The next message. The end of the stream and an invalid message are errors.
    pub(super) fn news(&mut self) -> io::Result<News> {
        loop {
            if let Ok(message) = NewsBytes::try_from(self.came.as_slice()) {
                self.came.clear();
                return News::decode(message).ok_or(io::ErrorKind::InvalidData.into());
            }
            let mut bytes = NewsBytes::default();
            let missing = bytes.len() - self.came.len();
            match self.stream.read(&mut bytes[..missing]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.came.extend(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether the guard is dead, or talks nonsense. Other errors say nothing about it: there is no news, or
/// this process can't read it now.
pub(super) fn is_the_end(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionReset, InvalidData, UnexpectedEof};
    [ConnectionReset, InvalidData, UnexpectedEof].contains(&error.kind())
}

/// Errors are ignored: the guard sees the run's death when it reads.
pub(super) fn tell(mut run: &UnixStream, news: News) {
    let _ = run.write_all(&news.encode());
}

/// Checks the properties of both parsers, of messages and of /proc stat lines, for any bytes.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(bytes: &[u8]) {
    for message in bytes.chunks_exact(size_of::<NewsBytes>()) {
        let message = message.try_into().expect("they are so long");
        let news = News::decode(message).filter(|news| !matches!(news, News::NotStarted(_)));
        if let Some(news) = news {
            assert_eq!(news.encode(), message);
        }
    }
    for byte in bytes {
        assert!(Order::decode(*byte).is_none_or(|order| order as u8 == *byte));
    }
    let all: Vec<super::tree::OfProc> = bytes
        .split(|b| *b == b'\n')
        .filter_map(super::tree::parse_stat)
        .collect();
    assert!(super::tree::below(1, &all).len() <= all.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::guard::{Heard, read_word};
    use proptest::prelude::*;

    const STOPS: [Stop; 4] = [
        Stop {
            killed: false,
            left: false,
        },
        Stop {
            killed: true,
            left: false,
        },
        Stop {
            killed: false,
            left: true,
        },
        Stop {
            killed: true,
            left: true,
        },
    ];

    fn wire() -> (UnixStream, Wire) {
        let (guard, run) = UnixStream::pair().unwrap();
        run.set_nonblocking(true).unwrap();
        (guard, run.into())
    }

    #[test]
    fn news_comes_as_it_was_sent() {
        let mut all = vec![
            News::Started(1),
            News::Started(i32::MAX),
            News::NotStarted(Errno::ENOENT),
            News::Ended(CommandExit::Code(0)),
            News::Ended(CommandExit::Code(255)),
            News::Ended(CommandExit::Signal(9)),
            News::Ended(CommandExit::Signal(64)),
            News::Here,
        ];
        all.extend(STOPS.map(News::Gone));
        for news in all {
            assert_eq!(News::decode(news.encode()), Some(news));
        }
    }

    #[test]
    fn nonsense_is_no_news() {
        let message = |letter: u8, number: i32| {
            let [a, b, c, d] = number.to_ne_bytes();
            News::decode([letter, a, b, c, d])
        };
        let wrong = [
            (0, 0),
            (b'p', 0),
            (b'p', -1),
            (b'e', 0),
            (b'e', i32::MIN),
            (b'c', -1),
            (b'c', 256),
            (b's', 0),
            (b's', 128),
            (b'h', 1),
            (b'g', 4),
            (b'g', -1),
            (b'x', 1),
        ];
        for (letter, number) in wrong {
            assert_eq!(message(letter, number), None, "{} {number}", letter as char);
        }
    }

    #[test]
    fn orders_are_three_bytes_of_256() {
        for order in [Order::Stop, Order::Keep] {
            assert_eq!(Order::decode(order as u8), Some(order));
        }
        let orders = (0..=u8::MAX).filter_map(Order::decode);
        assert_eq!(orders.count(), 3);
    }

    #[test]
    fn news_may_come_in_pieces_and_several_at_once() {
        let (mut guard, mut run) = wire();
        let would_block =
            |run: &mut Wire| run.news().unwrap_err().kind() == io::ErrorKind::WouldBlock;
        assert!(would_block(&mut run));
        let first = News::Ended(CommandExit::Code(3));
        let last = News::Gone(STOPS[1]);
        guard.write_all(&first.encode()[..2]).unwrap();
        assert!(would_block(&mut run));
        guard.write_all(&first.encode()[2..]).unwrap();
        guard.write_all(&last.encode()).unwrap();
        drop(guard);
        assert_eq!(run.news().unwrap(), first);
        assert_eq!(run.news().unwrap(), last);
        assert_eq!(run.news().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn nonsense_and_the_end_amid_a_message_are_errors() {
        let (mut guard, mut run) = wire();
        guard.write_all(b"xxxxxp").unwrap();
        drop(guard);
        assert_eq!(run.news().unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(run.news().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn the_end_of_the_run_and_nonsense_are_no_orders() {
        let (guard, mut run) = UnixStream::pair().unwrap();
        run.write_all(b"ks?").unwrap();
        drop(run);
        let heard = [(); 4].map(|()| read_word(&guard));
        let words = heard.map(|heard| match heard {
            Heard::Word(byte) => Order::decode(byte),
            _ => None,
        });
        assert_eq!(words, [Some(Order::Keep), Some(Order::Stop), None, None]);
        assert_eq!(heard[3], Heard::TheEnd);
    }

    proptest! {
        #[test]
        fn whatever_is_news_is_said_in_one_way(message: NewsBytes) {
            withstand(&message);
        }
    }
}
