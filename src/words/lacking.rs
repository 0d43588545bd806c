//! This host lacks what a way to close the gate needs.

/// This host lacks what the backend needs: another one may work.
#[derive(Debug)]
pub struct Lacking(pub String);

impl Lacking {
    /// NAT, as far as the backend can use it.
    pub fn nat(why: impl std::fmt::Display) -> Lacking {
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
