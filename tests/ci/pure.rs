//! The decisions and what they need, as a crate of their own: tests/ci/mutants builds it hundreds of
//! times, in a fraction of the time that the whole takes. What these files import is named here too.

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
        mod places;
        pub(super) mod policy;
    }
    #[cfg(test)]
    mod tests;
}

mod gate {
    pub(crate) mod consumers;
    pub(crate) mod nat;
}

mod run {
    mod place;
    mod report {
        mod time;
        mod verdict;
    }
}
