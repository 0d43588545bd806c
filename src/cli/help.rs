//! How the help looks: colours, groups of options, and the brief `-h`.

use clap::builder::styling::{AnsiColor, Styles};

/// See tell/colour.rs for when there are colours.
pub(crate) const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Terminals in an emergency may be no wider.
pub(crate) const HELP_WIDTH: usize = 80;

// The groups of options, in the order of a run.
pub(crate) const GATED: &str = "What to gate";
pub(crate) const WHEN: &str = "Times";
pub(crate) const CHECKS: &str = "Checks before and after COMMAND";
pub(crate) const MADE: &str = "How the gate is made";
pub(crate) const TOLD: &str = "Output";

/// `-h` has one line for an option: variables and possible values are left to `--help`.
pub(crate) fn brief(program: clap::Command) -> clap::Command {
    program.mut_args(|arg| {
        let has_value = arg.get_action().takes_values();
        arg.hide_env(true).hide_possible_values(has_value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brief_help_has_no_variables_and_values() {
        let arg = clap::Arg::new("syn").long("syn").env("SYNGATE_SYN");
        let program = clap::Command::new("syngate").arg(arg.value_parser(["drop", "hold"]));
        let long = program.clone().render_help().to_string();
        assert!(long.contains("SYNGATE_SYN") && long.contains("possible values"));
        let brief = brief(program).render_help().to_string();
        assert!(brief.contains("--syn"), "{brief}");
        assert!(!brief.contains("SYNGATE_SYN") && !brief.contains("possible values"));
    }
}
