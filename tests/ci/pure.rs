//! The decisions and what they need, as a crate of their own: tests/ci/mutants builds it hundreds of
//! times, in a fraction of the time that the whole takes.

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
}

mod run {
    mod place;
    mod report {
        mod time;
        mod verdict;
    }
}
