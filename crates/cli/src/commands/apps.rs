//! `ace apps`: all apps, a line each.

use ace_api::InstanceState;
use ace_api::http::{AppState, AppView, AppsView, ServedBy};
use ace_types::TenantName;
use clap::Args;

use crate::client::Client;
use crate::error::CommandError;
use crate::pages;
use crate::screen::{self, Screen, Style};

/// List the apps
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace apps          a table
  ace apps --json   a list of objects, each with a `name`")]
pub struct AppsArgs {
    /// Only this tenant's
    #[arg(long, value_name = "NAME")]
    tenant: Option<TenantName>,
}

pub async fn run(args: AppsArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let query = args.tenant.map_or(String::new(), |tenant| format!("?tenant={tenant}"));
    let AppsView { apps, .. } = pages::all(client, &format!("/v1/apps{query}")).await?;
    Ok(screen.show(&apps, || render(&apps, screen))?)
}

fn render(apps: &[AppView], screen: &Screen) -> String {
    if apps.is_empty() {
        return "No apps yet. Deploy the folder with your index.py:  ace deploy DIR".to_owned();
    }
    // With one tenant alone, its name would be noise.
    let tenants = apps.iter().any(|app| app.tenant != TenantName::default());
    let rows = apps.iter().map(|app| row(app, tenants, screen)).collect();
    let head = ["NAME", "STATE", "RELEASE", "INSTANCES", "URL"];
    match tenants {
        true => screen.table(&[&head[..], &["TENANT"]].concat(), rows),
        false => screen.table(&head, rows),
    }
}

fn row(app: &AppView, with_tenant: bool, screen: &Screen) -> Vec<String> {
    // Those that are on their way out have been replaced already.
    let staying = || app.instances.iter().filter(|it| it.state != InstanceState::Draining);
    let ready = staying().filter(|it| it.state == InstanceState::Running).count();
    let mut row = vec![
        app.name.to_string(),
        state(app.state, screen),
        app.release.map_or("-".to_owned(), |release| release.to_string()),
        match app.served_by {
            Some(ServedBy::Files) => "-".to_owned(),
            _ => format!("{ready}/{}", staying().count()),
        },
        screen::escape(&app.url),
    ];
    row.extend(with_tenant.then(|| app.tenant.to_string()));
    row
}

/// An app's state in one word, in its colour.
pub fn state(state: AppState, screen: &Screen) -> String {
    let (style, word) = match state {
        AppState::New => (Style::Dim, "new"),
        AppState::Running => (Style::Good, "running"),
        AppState::Starting => (Style::Warning, "starting"),
        AppState::Crashing => (Style::Error, "crashing"),
        AppState::Stopped => (Style::Dim, "stopped"),
        AppState::Destroying => (Style::Dim, "destroying"),
    };
    screen.paint(style, word)
}

#[cfg(test)]
mod tests {
    use ace_api::http::InstanceView;

    use super::*;

    #[test]
    fn no_apps_says_what_to_do() {
        assert!(render(&[], &Screen::plain()).contains("ace deploy"));
    }

    #[test]
    fn tenants_are_named_where_there_are_several() {
        let shop = crate::commands::status::tests::shop();
        let other = AppView { tenant: "acme".parse().expect("a name"), ..shop.clone() };
        let table = render(&[shop, other], &Screen::plain());
        let last: Vec<_> = table.lines().map(|line| line.split(' ').next_back()).collect();
        assert_eq!(last, [Some("TENANT"), Some("default"), Some("acme")]);
    }

    #[test]
    fn an_app_is_a_line() {
        let mut app = crate::commands::status::tests::shop();
        let replaced = app.instances[0].clone();
        app.instances.push(InstanceView { state: InstanceState::Draining, ..replaced });
        assert_eq!(
            render(&[app], &Screen::plain()),
            "NAME  STATE    RELEASE  INSTANCES  URL\n\
             shop  running  3        1/1        http://shop.localhost:8080"
        );
    }
}
