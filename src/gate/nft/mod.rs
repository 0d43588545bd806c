//! The nf_tables backend. The gate is one table that belongs to our netlink socket: the kernel
//! destroys it when the socket is closed, so also when we are killed (`NFT_TABLE_F_OWNER`, Linux
//! 5.12), and nobody else can change it. The gated ports are elements of a set that expire one by
//! one, so that the kernel opens the gate at the deadline even if we hang.

pub mod compile;
mod messages;
mod raw;

use std::ffi::CStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockProtocol;

use self::compile::{CHAIN, PORTS, Ruleset, STOPPED, compile};
use self::messages::Transaction;
use super::{Backend, Deadline, Rules, Standing};
use crate::netlink::{Netlink, Refusal, put_attribute};
use crate::ports::PortSet;

/// A dump is torn when anybody changes the ruleset meanwhile: how often to try again.
const DUMP_TRIES: usize = 20;
/// What an skb takes besides the data, and the kernel's doubling, are covered by this factor.
const SEND_BUFFER_FACTOR: usize = 2;
/// Up to this size a transaction fits the default send buffer (net.core.wmem_default, 212,992).
const SEND_BUFFER_ENOUGH: usize = 64 * 1024;

// linux/netfilter/nf_tables.h
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_OBJ_TABLE: u16 = 1;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;

/// One run's table.
pub struct Nft {
    /// It owns the table, so every change is made by it, and it lives as long as the gate.
    socket: Netlink,
    id: String,
    comment: String,
    installed: Option<Installed>,
}

struct Installed {
    rules: Ruleset,
    /// Whether the rule is in its chain: opening takes it away.
    rule_up: bool,
}

impl Nft {
    /// A backend for run `id`. Opens a socket and changes nothing.
    ///
    /// # Errors
    /// The kernel has no netfilter netlink.
    pub fn new(id: &str, comment: String) -> Result<Nft> {
        let socket = Netlink::open(SockProtocol::NetlinkNetFilter).context(
            "this kernel has no nf_tables (CONFIG_NF_TABLES); is the nf_tables module missing?",
        )?;
        Ok(Nft {
            socket,
            id: id.to_owned(),
            comment,
            installed: None,
        })
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        let pages = transaction.pages();
        let bytes: usize = pages.iter().map(|page| page.len()).sum();
        if bytes > SEND_BUFFER_ENOUGH {
            // Refused without CAP_NET_ADMIN: then the transaction is as well, and says it better.
            let _ = self.socket.reserve_send_buffer(bytes * SEND_BUFFER_FACTOR);
        }
        self.socket.transact(&pages, transaction.seqs())
    }

    /// Dumps something of the table until nobody changes the ruleset meanwhile.
    fn dump<T>(
        &mut self,
        kind: libc::c_int,
        names: &[(u16, &CStr)],
        parse: impl Fn(&[u8]) -> Vec<T>,
    ) -> Result<Vec<T>, Refusal> {
        let body = messages::about(names);
        let mut tries = 0;
        loop {
            let mut rows = Vec::new();
            let dumped = self.socket.request(
                nft_message(kind),
                libc::NLM_F_DUMP as u16,
                &body,
                |_, row| {
                    rows.extend(parse(row));
                },
            );
            match dumped {
                Err(refusal) if refusal.errno == Errno::EINTR && tries < DUMP_TRIES => tries += 1,
                Err(refusal) => return Err(refusal),
                Ok(()) => return Ok(rows),
            }
        }
    }

    fn rule_stands(&mut self, table: &CStr) -> Result<bool, Refusal> {
        let names = [(NFTA_RULE_TABLE, table), (NFTA_RULE_CHAIN, CHAIN)];
        let rules = self.dump(libc::NFT_MSG_GETRULE, &names, |_| vec![()])?;
        Ok(!rules.is_empty())
    }

    fn ports_in_set(&mut self, table: &CStr) -> Result<PortSet, Refusal> {
        let names = [
            (NFTA_SET_ELEM_LIST_TABLE, table),
            (NFTA_SET_ELEM_LIST_SET, PORTS),
        ];
        let bounds = self.dump(libc::NFT_MSG_GETSETELEM, &names, messages::bounds)?;
        Ok(messages::ports_between(bounds))
    }

    fn syns_stopped(&mut self, table: &CStr) -> Result<u64, Refusal> {
        let mut body = messages::about(&[(NFTA_OBJ_TABLE, table), (NFTA_OBJ_NAME, STOPPED)]);
        put_attribute(
            &mut body,
            NFTA_OBJ_TYPE,
            &raw::NFT_OBJECT_COUNTER.to_be_bytes(),
        );
        let mut packets = None;
        let flags = libc::NLM_F_ACK as u16;
        self.socket
            .request(nft_message(libc::NFT_MSG_GETOBJ), flags, &body, |_, row| {
                packets = packets.or(messages::packets(row));
            })?;
        packets.ok_or(Errno::EBADMSG.into())
    }
}

/// The number of an nf_tables message on the wire: the subsystem in the upper byte.
fn nft_message(kind: libc::c_int) -> u16 {
    (libc::NFNL_SUBSYS_NFTABLES << 8 | kind) as u16
}

impl Backend for Nft {
    fn name(&self) -> &'static str {
        "nft"
    }

    fn install(&mut self, rules: &Rules, until: Deadline) -> Result<()> {
        let rules = compile(rules, &self.id, &self.comment);
        let transaction = messages::create(&rules, time_left(until)?);
        // Noted first: whatever becomes of the transaction, remove() then tries to undo it.
        self.installed = Some(Installed {
            rules,
            rule_up: true,
        });
        self.commit(&transaction)
            .map_err(|refusal| explain(&refusal))
    }

    fn set_ports(&mut self, ports: &PortSet, until: Deadline) -> Result<()> {
        let Some(Installed { rules, rule_up }) = &self.installed else {
            bail!("no gate was closed");
        };
        // Taking the rule away is by far the quickest, as quick with 32,000 ports as with one.
        let transaction = if ports.is_empty() {
            messages::flush_rule(rules)
        } else {
            messages::replace_ports(rules, ports, time_left(until)?, !*rule_up)
        };
        self.commit(&transaction)?;
        if let Some(installed) = &mut self.installed {
            installed.rule_up = !ports.is_empty();
        }
        Ok(())
    }

    fn standing(&mut self) -> Result<Standing> {
        let Some(Installed { rules, rule_up }) = &self.installed else {
            return Ok(Standing {
                ports: PortSet::EMPTY,
                syns_stopped: 0,
            });
        };
        let (table, rule_up) = (rules.table.clone(), *rule_up);
        let ports = if rule_up && self.rule_stands(&table)? {
            self.ports_in_set(&table)?
        } else {
            PortSet::EMPTY
        };
        Ok(Standing {
            ports,
            syns_stopped: self.syns_stopped(&table)?,
        })
    }

    fn remove(&mut self) -> Result<()> {
        let Some(Installed { rules, .. }) = &self.installed else {
            return Ok(());
        };
        let transaction = messages::delete(rules);
        match self.commit(&transaction) {
            // It is not there: the transaction that should have made it was refused.
            Err(refusal) if refusal.errno == Errno::ENOENT => (),
            done => done?,
        }
        self.installed = None;
        Ok(())
    }
}

fn time_left(until: Deadline) -> Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    anyhow::ensure!(!left.is_zero(), "the deadline (--max-closed) has passed");
    Ok(left)
}

/// What a refusal to create the table means, in words that say what to do.
fn explain(refusal: &Refusal) -> anyhow::Error {
    match refusal.errno {
        Errno::EPERM | Errno::EACCES => anyhow!(crate::caps::NEEDED),
        Errno::EINVAL | Errno::EOPNOTSUPP => anyhow!(
            "this kernel refuses nf_tables tables with an owner (Linux 5.12 or newer with \
             CONFIG_NF_TABLES_INET is needed): {refusal}"
        ),
        Errno::EMSGSIZE => anyhow!(
            "--port: too many separate ranges for this user namespace, whose netlink messages are \
             bounded by net.core.wmem_default; join ranges, or run it as the host's root"
        ),
        Errno::ENOENT => anyhow!("this kernel lacks a part of nf_tables: {refusal}"),
        _ => anyhow!("nf_tables refused the rules: {refusal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_is_missing() {
        for (errno, says) in [
            (Errno::EPERM, "CAP_NET_ADMIN"),
            (Errno::EINVAL, "Linux 5.12"), // tables without owners, as 5.10 answers
            (Errno::EOPNOTSUPP, "Linux 5.12"),
            (Errno::ENOENT, "lacks a part of nf_tables"),
            (Errno::EMSGSIZE, "--port"),
            (Errno::ENOMEM, "refused the rules"),
        ] {
            let said = explain(&errno.into()).to_string();
            assert!(said.contains(says), "{errno}: {said}");
            assert!(!said.contains('\n'), "{errno}: {said}");
        }
    }

    #[test]
    fn no_gate_is_closed_after_its_deadline() {
        assert!(time_left(Instant::now() - Duration::from_secs(1)).is_err());
        assert!(time_left(Instant::now() + Duration::from_secs(9)).is_ok());
    }
}
