//! What the results are to show, and whether they do.

use testkit::median;

use super::{
    costs::SERIES,
    figures::{ms, sum, thousands},
    measured::Measured,
};
use crate::{
    sample::{Family, Mode, Sample},
    ways::Way,
};

impl Measured {
    /// A row for each.
    pub fn promises(&self) -> String {
        let all = [
            self.hold_promise(),
            self.bound_promise(),
            self.drop_promise(),
            self.pair_promise(),
        ];
        let growth = ["rules", "legacy rules", "connections"];
        let growth = growth
            .iter()
            .filter_map(|series| self.growth_promise(series));
        let rows = all.into_iter().flatten().chain(growth);
        let rows = rows.chain(self.ports_promise());
        let rows: Vec<String> = rows.chain(self.room_promises()).collect();
        if rows.is_empty() {
            return String::new();
        }
        format!(
            "\n## What it should show\n\n| what | measured | kept |\n|---|---|---|\n{}",
            rows.concat()
        )
    }

    fn hold_promise(&self) -> Option<String> {
        let (sent, failed) = (sum(&self.many, |s| s.sent), sum(&self.many, Sample::failed));
        (!self.many.is_empty()).then(|| {
            let measured = format!(
                "{failed} of {} in {} restarts of haproxy (clients late in {} of them)",
                thousands(sent),
                self.many.len(),
                self.many.iter().filter(|s| s.late > 0).count()
            );
            promise(
                "hold: nobody fails in 1,000,000 connections and 200 restarts",
                &measured,
                failed == 0 && sent >= 1_000_000 && self.many.len() >= 200,
            )
        })
    }

    /// Without the delay that the client itself caused.
    fn bound_promise(&self) -> Option<String> {
        let bound = |s: &Sample| 1.2 * (s.gap_ms + s.drain_ms.unwrap_or_default()) + 10.0;
        let over: Vec<&Sample> = self
            .many
            .iter()
            .filter(|s| s.connect.max_ms > bound(s))
            .collect();
        let late = over.iter().filter(|s| s.late > 0).count();
        let closest = self
            .many
            .iter()
            .map(|s| s.connect.max_ms / bound(s))
            .fold(0.0, f64::max);
        (!self.many.is_empty()).then(|| {
            let measured = format!(
                "{} of {} restarts above it ({late} of these with late clients); at most {:.0} % of it",
                over.len(), self.many.len(), closest * 100.0
            );
            promise(
                "hold: the worst connect is at most 1.2 × (gap + drain) + 10 ms, where the clients are on time",
                &measured,
                late == over.len(),
            )
        })
    }

    /// For as long as nobody listens no gate can let anybody in: that part is the service's own.
    fn drop_promise(&self) -> Option<String> {
        let subjects = ["haproxy restart", "nginx restart", "plain server"];
        let delays: Vec<Delays> = subjects.iter().filter_map(|of| self.delays(of)).collect();
        let words: Vec<String> = delays.iter().map(Delays::words).collect();
        (!delays.is_empty()).then(|| {
            promise(
                "drop: nobody fails, and at most a tenth of the folk recipe's are delayed",
                &words.join("; "),
                delays.len() == subjects.len() && delays.iter().all(Delays::are_few),
            )
        })
    }

    fn delays(&self, subject: &'static str) -> Option<Delays> {
        let of = |way: Way| {
            let usual = |s: &&&Sample| s.rate == 1_000;
            let of_it = self.fresh(subject, way);
            of_it.iter().filter(usual).copied().collect::<Vec<_>>()
        };
        let (drop, folk) = (of(Way::Drop), of(Way::Folk));
        let delayed = |samples: &[&Sample]| median(samples.iter().map(|s| s.delayed as f64));
        Some(Delays {
            subject,
            failed: drop.iter().map(|s| s.failed()).sum(),
            ours: delayed(&drop)?,
            theirs: delayed(&folk)?,
            gap_ms: median(drop.iter().map(|s| s.gap_ms))?,
        })
    }

    /// All rounds with new connections over IPv4.
    pub fn fresh(&self, subject: &str, way: Way) -> Vec<&Sample> {
        let of_it = self.restarts.iter().filter(|s| {
            (s.way, s.mode, s.family) == (way, Mode::Fresh, Family::Ipv4) && s.subject == subject
        });
        of_it.collect()
    }

    fn pair_promise(&self) -> Option<String> {
        let pair = self.medians("pair", 0);
        let (ours, theirs) = (
            pair.get("syngate")?.wall_ms?,
            pair.get("iptables")?.wall_ms?,
        );
        let measured = format!("{} against {}: {:.2}", ms(ours), ms(theirs), ours / theirs);
        Some(promise(
            "`syngate -- true` takes at most half as long as `iptables -I` and `-D`",
            &measured,
            ours * 2.0 <= theirs,
        ))
    }

    fn growth_promise(&self, series: &str) -> Option<String> {
        let sizes = self.sizes(series);
        let [first, .., last] = sizes[..] else {
            return None;
        };
        let of = |size| {
            let medians = self.medians(series, size);
            let ours = medians.get("syngate")?;
            Some((ours.close_ms?, ours.open_ms?))
        };
        let ((close, open), (close_large, open_large)) = (of(first)?, of(last)?);
        let what = SERIES
            .iter()
            .find(|(name, _)| *name == series)
            .map_or("", |(_, what)| *what);
        let measured = format!(
            "closed after {} against {}, open after {} against {}",
            ms(close_large),
            ms(close),
            ms(open_large),
            ms(open)
        );
        let kept = close_large <= 1.5 * close + 0.2 && open_large <= 1.5 * open + 0.2;
        let promised = format!(
            "closing and opening with {} {what} take at most 1.5 × as long as with {first}, and 0.2 ms",
            thousands(last)
        );
        Some(promise(&promised, &measured, kept))
    }
}

impl Measured {
    /// How much longer the gate takes for each further port.
    fn ports_promise(&self) -> Option<String> {
        const SERIES: &str = "odd ports";
        let closed = |size| self.medians(SERIES, size).get("syngate")?.close_ms;
        let sizes = self.sizes(SERIES);
        let one = closed(*sizes.first()?)?;
        let part = |size: &u64| Some((closed(*size)? - one) / (size - 1) as f64 * 1e3);
        let parts = sizes[1..].iter().map(part).collect::<Option<Vec<f64>>>()?;
        let [first, .., last] = parts[..] else {
            return None;
        };
        let each: Vec<String> = sizes[1..]
            .iter()
            .zip(&parts)
            .map(|(size, part)| format!("{part:.1} µs with {}", thousands(*size)))
            .collect();
        let most = closed(*sizes.last()?)?;
        let measured = format!("closed after {}; {} a port", ms(most), each.join(", "));
        Some(promise(
            "closing takes time in proportion to the number of separate ports, and no more than half a second",
            &measured,
            last <= 1.5 * first && most <= 500.0,
        ))
    }
}

/// Clients delayed by a restart, with the gate and with the folk recipe.
struct Delays {
    subject: &'static str,
    failed: u64,
    ours: f64,
    theirs: f64,
    gap_ms: f64,
}

impl Delays {
    fn are_few(&self) -> bool {
        self.failed == 0 && self.ours * 10.0 <= self.theirs
    }

    fn words(&self) -> String {
        let Delays {
            subject,
            failed,
            ours,
            theirs,
            gap_ms,
        } = self;
        let part = ours / theirs * 100.0;
        format!(
            "{subject}: {failed} failed, {ours:.0} delayed against {theirs:.0} ({part:.0} %), while \
             nobody listened for {}",
            ms(*gap_ms)
        )
    }
}

pub fn promise(what: &str, measured: &str, kept: bool) -> String {
    format!(
        "| {what} | {measured} | {} |\n",
        if kept { "yes" } else { "**no**" }
    )
}
