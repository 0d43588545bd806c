//! The decisions and what they need, as a crate of their own: tests/ci/mutants builds it hundreds of
//! times, in a fraction of the time that the whole takes. tests/layers.rs holds it to the sources.

#![allow(dead_code, unexpected_cfgs, unused_imports)]

mod decide;
mod kernel;
mod words;

mod action {
    mod divert {
        mod peer;
        mod way;
    }
    mod hold {
        mod line;
        mod pace;
        pub(super) mod policy;
        mod release;
    }
    mod linger;
    mod redirect {
        mod mistake;
        mod places;
        pub(super) mod policy;
    }
    pub(crate) mod rooms {
        pub(crate) mod able;
        mod account;
        mod again;
        pub(crate) mod bound;
        pub(crate) mod choice;
        mod departed;
        pub(crate) mod figures;
        pub(crate) mod moved;
        mod moving;
        mod policy;
        mod portions;
        mod raised;
        mod waits;
    }
    #[cfg(test)]
    mod tests;
}

mod cli {
    mod help;
    mod values;
}

mod commands {
    mod container {
        mod inspect;
        mod storage;
    }
    mod check {
        mod advice;
        mod auto;
        mod backend;
        mod endpoint;
        mod host;
    }
    mod keep {
        mod cap;
        mod decide;
        mod flapping;
        mod gap;
        mod spot;
    }
    mod restart {
        mod listening;
        mod precheck;
        mod script;
    }
}

mod gate {
    pub(crate) mod by_port;
    pub(crate) mod consumers;
    pub(crate) mod counts;
    pub(crate) mod found;
    mod iptables {
        mod around;
        mod by_port;
        mod compile;
        mod rule;
        mod save;
    }
    pub(crate) mod kinds;
    pub(crate) mod nat;
    mod nft {
        mod answers;
        mod compared;
        mod compile;
        mod divert;
        mod leaving;
        mod names;
        mod refused;
        mod ruleset;
        mod script;
        mod syns;
        mod uapi;
        mod userdata;
    }
    pub(crate) mod rules;
    pub(crate) mod who;
}

mod run {
    mod in_place;
    mod place;
    mod report {
        mod time;
        mod verdict;
    }
}

mod tell {
    pub(crate) mod remote;
}
