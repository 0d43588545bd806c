//! The SYNs in a scope: the terms of a rule, and the sets that they look into.

use std::ffi::CStr;

use nftnl::Hook;

use super::names::{
    ALLOWED_INTERFACES, ALLOWED_V4, ALLOWED_V6, COUNTED, FROM_V4, FROM_V6, INTERFACES, TO_V4, TO_V6,
};
use super::ruleset::{Elements, NamedSet, Term, Way};
use crate::gate::rules::Leaving;
use crate::words::family::Family;
use crate::words::scope::{LOOPBACK, Scope};

/// What the rules that refuse look into besides.
pub(super) fn sets_of(leaving: &Leaving) -> Vec<NamedSet> {
    let sets = [
        (FROM_V4, Elements::V4(leaving.from.v4.clone())),
        (FROM_V6, Elements::V6(leaving.from.v6.clone())),
        (COUNTED, Elements::Ports(leaving.counted.clone())),
    ];
    named(sets)
}

fn named(sets: impl IntoIterator<Item = (&'static CStr, Elements)>) -> Vec<NamedSet> {
    let sets = sets.into_iter().filter(|(_, e)| !e.is_empty());
    sets.map(|(name, elements)| NamedSet { name, elements })
        .collect()
}

pub(super) fn sets(scope: &Scope) -> Vec<NamedSet> {
    let allowed = if scope.allow_local {
        vec![LOOPBACK.to_owned()]
    } else {
        Vec::new()
    };
    named([
        (TO_V4, Elements::V4(scope.to.v4.clone())),
        (TO_V6, Elements::V6(scope.to.v6.clone())),
        (INTERFACES, Elements::Interfaces(scope.interfaces.clone())),
        (ALLOWED_V4, Elements::V4(scope.allow_from.v4.clone())),
        (ALLOWED_V6, Elements::V6(scope.allow_from.v6.clone())),
        (ALLOWED_INTERFACES, Elements::Interfaces(allowed)),
    ])
}

pub(super) fn addresses(scope: &Scope, family: Family) -> Vec<Term> {
    let mut terms = Vec::new();
    if !scope.to.is_empty() {
        terms.push(Term::To(family));
    }
    if !scope.allow_from.of(family).is_empty() {
        terms.push(Term::NotFrom(family));
    }
    terms
}

pub(super) fn new_syn(addresses: Vec<Term>, scope: &Scope, hook: Hook) -> Vec<Term> {
    let mut terms = vec![Term::Tcp, Term::NewSyn];
    terms.extend(gated(addresses, scope, hook));
    terms
}

/// By which interface a hook tells packets apart.
pub(super) fn way(hook: Hook) -> Way {
    match hook {
        Hook::Out => Way::Out,
        _ => Way::In,
    }
}

/// What packets to the gated ports in that scope have in common.
pub(super) fn gated(addresses: Vec<Term>, scope: &Scope, hook: Hook) -> Vec<Term> {
    let way = way(hook);
    let mut terms = vec![Term::ToGatedPort];
    terms.extend(addresses);
    if !scope.interfaces.is_empty() {
        terms.push(Term::Via(way));
    }
    if scope.allow_local {
        terms.push(Term::NotVia(way));
    }
    // In the input hook all packets are for this host.
    if hook != Hook::In {
        terms.push(Term::ToThisHost);
    }
    terms
}
