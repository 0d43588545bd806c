//! The error of a host that lacks something.

/// This host lacks something that a backend needs. Another backend may work.
#[derive(Debug)]
pub(crate) struct Lacking(pub(crate) String);

impl Lacking {
    pub(crate) fn nat(why: impl std::fmt::Display) -> Lacking {
        Lacking(format!(
            "--syn redirect needs NAT and connection tracking (are the modules nf_nat and \
             nf_conntrack missing?): {why}"
        ))
    }
}

impl std::error::Error for Lacking {}

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
