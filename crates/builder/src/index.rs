//! A package index, as it is read on the host: the list of a project's files, in JSON.

use http::Uri;
use serde::Deserialize;

use crate::fetch::{Client, FetchError};

const PAGE_MAX: usize = 32 << 20;
const PAGE_TYPE: &str = "application/vnd.pypi.simple.v1+json";

/// A project's page. Source: <https://peps.python.org/pep-0691/>.
#[derive(Debug, Deserialize)]
pub struct Page {
    pub files: Vec<PageFile>,
}

#[derive(Debug, Deserialize)]
pub struct PageFile {
    pub filename: String,
    pub url: String,
}

/// Why a page can't be had.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the answer is no list of files in JSON (PEP 691)")]
    Malformed(#[from] serde_json::Error),
}

/// The page of `project`, by its normal name, in the index at `index`, and the page's own address.
pub async fn page(client: &Client, index: &str, project: &str) -> Result<(Uri, Page), PageError> {
    let address = format!("{}/{project}/", index.trim_end_matches('/'));
    let address: Uri = address.parse().map_err(|_| FetchError::Address(address))?;
    let page = client.get(&address, PAGE_TYPE, PAGE_MAX).await?;
    Ok((address, serde_json::from_slice(&page)?))
}
