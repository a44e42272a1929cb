//! Long lists, which the API gives in parts.

use ace_api::http::{AppsView, BuildsView, DomainsView, ReleasesView, TokensView};
use serde::de::DeserializeOwned;

use crate::client::{Client, ClientError};

/// Entries that are asked for at once.
const LIMIT: usize = 500;
/// Parts of one list, before something must be wrong with it.
const PARTS_MAX: usize = 1000;

/// A part of a list.
pub trait Part: DeserializeOwned {
    /// What the next part begins behind, taken out; `None` where this is the last.
    fn take_next(&mut self) -> Option<String>;

    /// Adds the part behind this one.
    fn add(&mut self, other: Self);
}

macro_rules! part {
    ($view:ty, $entries:ident) => {
        impl Part for $view {
            fn take_next(&mut self) -> Option<String> {
                self.next.take().map(|next| next.to_string())
            }

            fn add(&mut self, other: Self) {
                self.$entries.extend(other.$entries);
                self.next = other.next;
            }
        }
    };
}

part!(AppsView, apps);
part!(BuildsView, builds);
part!(DomainsView, domains);
part!(ReleasesView, releases);
part!(TokensView, tokens);

/// The whole list at `path`.
pub async fn all<T: Part>(client: &Client, path: &str) -> Result<T, ClientError> {
    let sign = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{sign}limit={LIMIT}");
    let mut whole: T = client.get(&path).await?;
    for _ in 0..PARTS_MAX {
        let Some(next) = whole.take_next() else { return Ok(whole) };
        whole.add(client.get(&format!("{path}&after={next}")).await?);
    }
    Err(ClientError::broken("reading a long list")("it has no end"))
}
