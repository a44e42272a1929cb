//! `ace scale`: how many instances an app has.

use ace_api::http::{AppView, Scale};
use ace_types::AppName;
use clap::Args;
use http::Method;

use crate::client::Client;
use crate::completion;
use crate::error::CommandError;
use crate::operation::{self, Request, Serving};
use crate::screen::Screen;

/// Set how many instances an app has
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  ace scale shop 3    three instances share the requests
  ace scale shop      how many there are to be

Each instance has the app's whole limits. They share its volume. The number is no release's: it
stays through deploys and rollbacks. For none: ace stop shop.")]
pub struct ScaleArgs {
    /// The app's name
    #[arg(add = completion::app())]
    app: AppName,

    /// 1 to 16
    #[arg(value_name = "N", value_parser = count)]
    instances: Option<u16>,
}

pub async fn run(args: ScaleArgs, client: &Client, screen: &Screen) -> Result<(), CommandError> {
    let app = &args.app;
    let Some(instances) = args.instances else {
        let view: AppView = client.get(&format!("/v1/apps/{app}")).await?;
        let scale = Scale { instances: view.scale };
        return Ok(screen.show(&scale, || format!("{app} has {}", counted(view.scale)))?);
    };
    let request = Request {
        app,
        method: Method::PUT,
        path: "scale",
        document: Scale { instances },
        name: "change of scale",
    };
    let success = |Serving { app, seconds, .. }: &Serving| {
        format!("{app} has {} ({seconds:.1} s)", counted(instances))
    };
    operation::run(request, client, screen, success).await
}

fn count(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) => Err("an app has 1 to 16 instances; for none: ace stop APP".to_owned()),
        Ok(count @ 1..=16) => Ok(count),
        _ => Err("an app has 1 to 16 instances".to_owned()),
    }
}

fn counted(instances: u16) -> String {
    match instances {
        1 => "1 instance".to_owned(),
        count => format!("{count} instances"),
    }
}
