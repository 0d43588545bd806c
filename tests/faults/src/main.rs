//! Tries to break what syngate guarantees: it is killed, and its system calls fail, at every point of a
//! run, on every backend, with every action; and whatever it was, nothing is left, the port takes
//! connections, COMMAND ran once or not at all, and what was said of it is true.

mod campaign;
mod inside;
mod leftovers;
mod lines;
mod neighbour;
mod point;
mod setting;
mod soak;
mod stage;
mod table;
mod trace;
mod trial;
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
        } => campaign.run(|setting, points| trial::all_neighbours(setting, points, own_kernel)),
        What::Soak(args) => soak::run(&args),
        What::Render { results, page } => table::render(&results, &page),
        What::Inside { place, setting } => {
            let setting = setting::named(&setting).context(setting)?;
            inside::run(&serde_json::from_str(&place)?, &setting)
        }
        What::InsideSoak { place } => soak::inside(&serde_json::from_str(&place)?),
    }
}
