//! What is made from the program itself: the schema, the completions, the manual page.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::{Arguments, Context, Exit, Stop};
use crate::config;

/// For which shell
#[derive(Debug, Args)]
pub(crate) struct CompletionArguments {
    /// The shell
    shell: Shell,
}

pub(crate) fn schema(context: &Context) -> Result<Exit, Stop> {
    context.print_json(&config::schema())?;
    Ok(Exit::Well)
}

pub(crate) fn completions(
    context: &Context,
    arguments: &CompletionArguments,
) -> Result<Exit, Stop> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "certkeep", &mut script);
    context.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Well)
}

pub(crate) fn man(context: &Context) -> Result<Exit, Stop> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
    context.print(&String::from_utf8_lossy(&page))?;
    Ok(Exit::Well)
}
