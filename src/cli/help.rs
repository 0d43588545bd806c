//! How the help looks: colours, groups of options, and the brief `-h`.

use std::ffi::OsStr;

use clap::Command;
use clap::builder::StyledStr;
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
pub(crate) fn brief(program: Command) -> Command {
    program.mut_args(|arg| {
        let has_value = arg.get_action().takes_values();
        arg.hide_env(true).hide_possible_values(has_value)
    })
}

/// A page of the manual that `syngate help NAME` shows, besides those of the commands.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    about: &'static str,
    /// An option. The help shows the group that this option is in.
    option: Option<&'static str>,
}

pub(crate) const SUBJECTS: [Subject; 3] = [
    Subject {
        name: "actions",
        about: "What a run does with new connections while its gate is closed",
        option: Some("syn"),
    },
    Subject {
        name: "gate",
        about: "How a run closes its gate, watches the service, and opens",
        option: None,
    },
    Subject {
        name: "report",
        about: "What syngate prints, and the JSON that it writes",
        option: None,
    },
];

pub(crate) fn subject(word: &OsStr) -> Option<&'static Subject> {
    SUBJECTS.iter().find(|subject| word == subject.name)
}

impl Subject {
    pub(crate) fn about(&self, program: Command) -> StyledStr {
        let group = self.option.and_then(|option| {
            let mut args = program.get_arguments();
            args.find(|arg| arg.get_long() == Some(option))?
                .get_help_heading()
        });
        let own = program.get_arguments().filter(|arg| {
            let heading = arg.get_help_heading();
            heading.is_some() && heading == group
        });
        let options = group.map_or("", |_| "\n\n{all-args}");
        Command::new(self.name)
            .about(self.about)
            .help_template(format!("{{about}}{options}{{after-help}}"))
            .args(own.cloned().collect::<Vec<_>>())
            .after_help(format!("The manual: man syngate-{}", self.name))
            .disable_help_flag(true)
            .max_term_width(HELP_WIDTH)
            .styles(STYLES)
            .render_long_help()
    }
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
