//! `ace domains`: names besides its own at which an app answers.

use ace_api::http::{AppView, DomainChange, DomainView, DomainsView};
use ace_types::{AppName, Domain};
use clap::{Args, Subcommand};
use http::Method;
use jiff::Timestamp;

use crate::client::Client;
use crate::commands::status::ago;
use crate::completion;
use crate::error::CommandError;
use crate::pages;
use crate::screen::{self, Screen};

/// List, add or remove names at which an app answers besides its own
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace domains shop
  ace domains shop add example.com www.example.com
  ace domains shop add '*.example.com'
  ace domains shop remove www.example.com

Point the name's DNS record to this machine; what comes for it goes to the app at once, without
a restart. A name is one app's. *.example.com takes every name with one part before example.com
that no app has by itself. All names of one command are added or removed, or none.")]
pub struct DomainsArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,

    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Debug, Clone, Subcommand)]
enum Change {
    /// The app answers at these names, too
    Add {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<Domain>,
    },
    /// The app answers at these names no longer
    Remove {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<Domain>,
    },
}

pub async fn run(args: DomainsArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let path = format!("/v1/apps/{}/domains", args.app);
    let Some(change) = args.change else {
        let view: DomainsView = pages::all(client, &path).await?;
        if screen.json() {
            return Ok(screen.show(&view, String::new)?);
        }
        let app: AppView = client.get(&format!("/v1/apps/{}", args.app)).await?;
        return Ok(screen.line(&render(&app, &view, screen, Timestamp::now()))?);
    };
    let change = match change {
        Change::Add { names } => DomainChange { add: names, remove: Vec::new() },
        Change::Remove { names } => DomainChange { add: Vec::new(), remove: names },
    };
    let view: DomainsView = client.send_document(Method::PATCH, &path, &change).await?;
    Ok(screen.show(&view, || success(&view, &change))?)
}

fn render(app: &AppView, view: &DomainsView, screen: &Screen, now: Timestamp) -> String {
    let own = screen::escape(&app.url);
    if view.domains.is_empty() {
        return format!("{own} alone. Add a name:  ace domains {} add www.example.com", app.name);
    }
    let row = |domain: &DomainView| vec![domain.name.to_string(), ago(domain.added_at, now)];
    let own = vec![own, "its own".to_owned()];
    let rows = std::iter::once(own).chain(view.domains.iter().map(row)).collect();
    screen.table(&["NAME", "ADDED"], rows)
}

fn success(view: &DomainsView, change: &DomainChange) -> String {
    let names =
        |names: &[Domain]| names.iter().map(Domain::to_string).collect::<Vec<_>>().join(", ");
    match change.remove.as_slice() {
        [] => format!("{} answers at {}", view.app, names(&change.add)),
        removed => format!("{} answers no longer at {}", view.app, names(removed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_s_own_name_comes_first() {
        let app = crate::commands::status::tests::shop();
        let at = |second| Timestamp::from_second(second).expect("a time");
        let domain = DomainView { name: "*.example.com".parse().expect("a name"), added_at: at(0) };
        let view = DomainsView {
            app: app.name.clone(),
            tenant: Default::default(),
            domains: vec![domain],
            next: None,
        };
        assert_eq!(
            render(&app, &view, &Screen::plain(), at(90)),
            "NAME                        ADDED\n\
             http://shop.localhost:8080  its own\n\
             *.example.com               1 min"
        );
        let none = DomainsView { domains: Vec::new(), ..view };
        assert!(render(&app, &none, &Screen::plain(), at(0)).contains("ace domains shop add"));
    }
}
