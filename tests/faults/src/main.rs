//! Tries to break what syngate guarantees: it is killed, and its system calls fail, at every point of a
//! run, on every backend, with every action. After each fault nothing is left, the port takes
//! connections, COMMAND ran once or not at all, and what was said of it is true, also to the clients who
//! came meanwhile.
//!
//! ```text
//!   campaign -- stage, one for each scene: hosts, clients near and far
//!                 |  a trial: one hit or two          | what clients saw
//!                 v                                   v
//!               inside -- trace: the hits           oracle  <- account: what the run has told
//!                 `------ leftovers -> verdict
//! ```
//!
//! What is tried (`fault`, `neighbour`, `point`), under which conditions (`setting`, `subject`), and how it is
//! judged (`verdict`, `oracle`: pure) know nothing of each other.

mod account;
mod campaign;
mod chance;
mod clients;
mod clock;
mod command;
mod counters;
mod fault;
mod group;
mod inside;
mod leftovers;
mod lines;
mod neighbour;
mod oracle;
mod pairs;
mod point;
mod rooms;
mod setting;
mod soak;
mod stage;
mod subject;
mod table;
mod trace;
mod trial;
mod turns;
mod verdict;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use campaign::Campaign;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Hit a run at each of its points, by each fault
    Matrix(Campaign),
    /// Disturb it at each of its phases, by all that neighbours do
    Neighbours {
        #[command(flatten)]
        campaign: Campaign,
        /// This kernel runs nothing else: set its clock, too
        #[arg(long)]
        own_kernel: bool,
    },
    /// Hit a run twice, at two of its points, by two faults, or a fault and what a neighbour does
    Pairs {
        #[command(flatten)]
        campaign: Campaign,
        /// So many for each setting
        #[arg(long, default_value_t = 100)]
        count: usize,
        /// Which of all that there could be
        #[arg(long, default_value_t = 1)]
        choice: u64,
    },
    /// Restart a service once a second, for long, under load
    Soak(soak::Args),
    /// Count what was tried, into a page
    Render {
        /// A file of results; repeatable
        #[arg(long, required = true)]
        results: Vec<PathBuf>,
        /// The page, which has marks for the tables
        #[arg(long)]
        page: PathBuf,
    },
    /// Try what comes in on stdin; for inside a host
    #[command(hide = true)]
    Inside {
        /// A [`setting::Place`], as JSON
        place: String,
        /// Its name
        setting: String,
        /// See [`setting::Scene`]
        subject: subject::Subject,
        /// The same
        rtt_ms: u32,
    },
    /// Restart what comes in on stdin; for inside a host
    #[command(hide = true)]
    InsideSoak {
        /// A [`setting::Place`], as JSON
        place: String,
    },
}

fn main() -> Result<()> {
    match Cli::parse().what {
        What::Matrix(campaign) => campaign.run(trial::all_faults),
        What::Neighbours {
            campaign,
            own_kernel,
        } => campaign.run(|scene, points| trial::all_neighbours(scene, points, own_kernel)),
        What::Pairs {
            campaign,
            count,
            choice,
        } => campaign.run(|scene, points| pairs::pairs(scene, points, count, choice)),
        What::Soak(args) => soak::run(&args),
        What::Render { results, page } => table::render(&results, &page),
        What::Inside {
            place,
            setting,
            subject,
            rtt_ms,
        } => {
            let scene = setting::Scene {
                setting: setting::named(&setting).context(setting)?,
                subject,
                rtt_ms,
            };
            inside::run(&serde_json::from_str(&place)?, &scene)
        }
        What::InsideSoak { place } => soak::inside(&serde_json::from_str(&place)?),
    }
}
