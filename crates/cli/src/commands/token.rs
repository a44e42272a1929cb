//! `ace token`: who may use the API over TCP.

use ace_api::http::{CreatedToken, Done, NewToken, TokenRole, TokenView, TokensView};
use ace_types::{Label, TenantName, TokenId};
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use jiff::{Span, SpanRelativeTo, Timestamp};

use crate::client::{ANSWER_DEADLINE, Client};
use crate::commands::status::ago;
use crate::error::CommandError;
use crate::pages;
use crate::screen::{self, Screen, Style};

/// Make, list and revoke tokens for the API over TCP
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace token create --name laptop --expires 30d
  ace token create --tenant acme --role read
  ace token create --role metrics --name prometheus
  ace token list
  ace token revoke k3mw7zpa

  ACE_TOKEN=ace_… ace apps --server http://127.0.0.1:8081

Tokens are for an engine that was started with --api. Its Unix socket needs none.")]
pub struct TokenArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Make a token; its secret is printed once
    Create(CreateArgs),
    /// List the tokens, the oldest first
    List,
    /// Take a token back, at once
    Revoke {
        /// The token's id, as `ace token list` shows it
        id: TokenId,
    },
}

#[derive(Debug, Clone, Args)]
struct CreateArgs {
    /// Whose apps it's for; without it, the tenant named default
    #[arg(long, value_name = "NAME")]
    tenant: Option<TenantName>,

    /// What to know it by
    #[arg(long, value_name = "LABEL")]
    name: Option<Label>,

    /// What may be done with it
    #[arg(long, value_enum, default_value = "deploy")]
    role: Role,

    /// How long it's good for: 12h, 30d; without it, until it's revoked
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    expires: Option<u32>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    /// All that root may, of every tenant and of the engine itself
    Admin,
    /// Whatever there is to do with one tenant's apps
    Deploy,
    /// Look at one tenant's apps and logs
    Read,
    /// Read the engine's metrics, and nothing else
    Metrics,
}

pub async fn run(args: TokenArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    match args.action {
        Action::Create(args) => {
            let created: CreatedToken = client.post("/v1/tokens", &new_token(args)).await?;
            screen.show(&created, || screen::escape(&created.secret))?;
            screen.note(&about(&created.token));
            Ok(())
        }
        Action::List => {
            let TokensView { mut tokens, .. } = pages::all(client, "/v1/tokens").await?;
            tokens.sort_by_key(|token| token.created_at);
            Ok(screen.show(&tokens, || render(&tokens, screen, Timestamp::now()))?)
        }
        Action::Revoke { id } => {
            let path = format!("/v1/tokens/{id}");
            let done: Done = client.document(Method::DELETE, &path, ANSWER_DEADLINE).await?;
            Ok(screen.show(&done, || screen::escape_lines(&done.message))?)
        }
    }
}

fn new_token(args: CreateArgs) -> NewToken {
    NewToken {
        role: match args.role {
            Role::Admin => TokenRole::Admin,
            Role::Deploy => TokenRole::Deploy,
            Role::Read => TokenRole::Read,
            Role::Metrics => TokenRole::Metrics,
        },
        tenant: args.tenant,
        label: args.name,
        expires_in_seconds: args.expires,
    }
}

/// What is said beside the secret.
fn about(token: &TokenView) -> String {
    let whose = match &token.tenant {
        _ if token.role == TokenRole::Metrics => "the engine's metrics".to_owned(),
        Some(tenant) => format!("the apps of tenant {tenant}"),
        None => "every tenant and the engine itself".to_owned(),
    };
    format!(
        "Keep it: it is not shown again. It may {} {whose}; `ace token revoke {}` takes it back.",
        match token.role {
            TokenRole::Admin => "do anything with",
            TokenRole::Deploy => "change",
            TokenRole::Read | TokenRole::Metrics => "see",
        },
        token.id
    )
}

fn render(tokens: &[TokenView], screen: &Screen, now: Timestamp) -> String {
    if tokens.is_empty() {
        return "No tokens yet. Make one:  ace token create --name LABEL".to_owned();
    }
    let rows = tokens.iter().map(|token| row(token, screen, now)).collect();
    screen.table(&["TOKEN", "NAME", "ROLE", "TENANT", "AGE", "LAST USED", "EXPIRES"], rows)
}

fn row(token: &TokenView, screen: &Screen, now: Timestamp) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        token.id.to_string(),
        or_dash(token.label.as_ref().map(|label| screen::escape(label.as_str()))),
        token.role.to_string(),
        token.tenant.as_ref().map_or("all".to_owned(), TenantName::to_string),
        ago(token.created_at, now),
        token.last_used_at.map_or("never".to_owned(), |at| format!("{} ago", ago(at, now))),
        match token.expires_at {
            None => "never".to_owned(),
            Some(end) if end <= now => screen.paint(Style::Error, "expired"),
            Some(end) => format!("in {}", ago(now, end)),
        },
    ]
}

/// `12h`, `30d` in seconds; a day has 24 hours.
fn seconds(text: &str) -> Result<u32, String> {
    let span: Span = text.parse().map_err(|_| "write a time like 12h or 30d".to_owned())?;
    let time = span.to_duration(SpanRelativeTo::days_are_24_hours());
    let time = time.map_err(|_| "months and years differ in length; write days: 90d".to_owned())?;
    let seconds = u32::try_from(time.as_secs()).ok().filter(|seconds| *seconds > 0);
    seconds.ok_or_else(|| "it can be a second to ten years".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_time_is_in_seconds() {
        assert_eq!(seconds("12h"), Ok(43_200));
        assert_eq!(seconds("30d"), Ok(2_592_000));
        assert_eq!(seconds("1d 12h"), Ok(129_600));
        for wrong in ["", "30", "1y", "0s", "-1d", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_a_line_without_its_secret() {
        let token = TokenView {
            id: "k3mw7zpa".parse().expect("an id"),
            label: Some("laptop\u{202e}".parse().expect("a label")),
            role: TokenRole::Deploy,
            tenant: Some(TenantName::default()),
            created_at: at(0),
            last_used_at: Some(at(60)),
            expires_at: Some(at(120)),
        };
        let table = |now| render(std::slice::from_ref(&token), &Screen::plain(), at(now));
        assert_eq!(
            table(100),
            "TOKEN     NAME            ROLE    TENANT   AGE    LAST USED  EXPIRES\n\
             k3mw7zpa  laptop\\u{202e}  deploy  default  1 min  40 s ago   in 20 s"
        );
        assert!(table(120).ends_with("expired"));
    }
}
