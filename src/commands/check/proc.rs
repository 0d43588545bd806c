//! What files below /proc tell of the kernel.

use std::fs;

use super::host::ConntrackUse;

/// The value of `net.core.somaxconn` and the like, if this kernel has it.
pub(crate) fn sysctl(name: &str) -> Option<u64> {
    let file = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

pub(crate) fn conntrack() -> Option<ConntrackUse> {
    Some(ConntrackUse {
        count: sysctl("net.netfilter.nf_conntrack_count")?,
        max: sysctl("net.netfilter.nf_conntrack_max")?,
    })
}

/// The virtual TCP services of IPVS, if its module is loaded.
pub(crate) fn ipvs() -> Option<Vec<String>> {
    Some(virtual_services(
        &fs::read_to_string("/proc/net/ip_vs").ok()?,
    ))
}

/// `TCP  0A4D0001:0050 rr`, or `TCP  [fd77:…:0001]:0050 rr`: address and port in hexadecimal.
fn virtual_services(table: &str) -> Vec<String> {
    let place = |line: &str| {
        let (address, port) = line
            .strip_prefix("TCP")?
            .split_whitespace()
            .next()?
            .rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let address = match u32::from_str_radix(address, 16) {
            Ok(v4) => std::net::Ipv4Addr::from(v4).to_string(),
            Err(_) => {
                let v6 = address
                    .trim_matches(['[', ']'])
                    .parse::<std::net::Ipv6Addr>();
                format!("[{}]", v6.ok()?)
            }
        };
        Some(format!("{address}:{port}"))
    };
    table.lines().filter_map(place).collect()
}

/// What holds for any text as the kernel's list of virtual services.
#[cfg(any(fuzzing, test))]
pub(crate) fn withstand(text: &str) {
    for service in virtual_services(text) {
        assert!(service.parse::<std::net::SocketAddr>().is_ok(), "{service}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ip_vs_info_seq_show() prints it.
    #[test]
    fn virtual_services_of_ipvs() {
        let table = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A4D0001:0050 rr
  -> 0A4D0002:0050      Masq    1      0          0
UDP  0A4D0001:0035 rr
TCP  [fd77:0000:0000:0000:0000:0000:0000:0001]:01BB wlc
FWM  00000001 rr
";
        assert_eq!(virtual_services(table), ["10.77.0.1:80", "[fd77::1]:443"]);
    }
}
