//! Listings: the keys of a bucket, page by page.

use std::sync::Arc;

use mesh_core::{Answer, Error, limits::LIST_KEYS_MAX, meta::Listing, op::ObjectOp};

use super::{Client, strange};

/// The pages of a listing. Keys that come or go while it is read may be in it or not; all others are, once.
///
/// ```no_run
/// # async fn example(client: mesh::Client) -> Result<(), mesh_core::Error> {
/// let mut pages = client.pages("films").prefix("1927/").delimiter("/");
/// while let Some(page) = pages.next().await? {
///     for entry in &page.entries {
///         println!("{} has {} bytes", entry.key, entry.len);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Pages {
    client: Client,
    bucket: Arc<str>,
    prefix: String,
    delimiter: Option<String>,
    limit: u32,
    /// Where the next page begins; `None`: there is none.
    after: Option<String>,
}

impl Client {
    /// The keys of a bucket, page by page. Nothing is asked before the first page is.
    #[must_use]
    pub fn pages(&self, bucket: &str) -> Pages {
        Pages {
            client: self.clone(),
            bucket: bucket.into(),
            prefix: String::new(),
            delimiter: None,
            limit: LIST_KEYS_MAX as u32,
            after: Some(String::new()),
        }
    }

    /// A page of keys that begin with `prefix`, behind `after`.
    ///
    /// # Errors
    /// `NoSuchBucket`, `Denied`.
    pub async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        delimiter: Option<&str>,
        after: &str,
    ) -> Result<Arc<Listing>, Error> {
        let list = ObjectOp::List {
            bucket: bucket.into(),
            prefix: prefix.to_owned(),
            delimiter: delimiter.map(str::to_owned),
            after: after.to_owned(),
            limit: LIST_KEYS_MAX as u32,
        };
        self.page(list).await
    }

    async fn page(&self, list: ObjectOp) -> Result<Arc<Listing>, Error> {
        match self.ask(list).await? {
            Answer::Listing(listing) => Ok(listing),
            answer => Err(strange(&answer)),
        }
    }
}

impl Pages {
    /// Only keys that begin so.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Keys that have this behind the prefix are rolled up into one common prefix.
    #[must_use]
    pub fn delimiter(mut self, delimiter: &str) -> Self {
        self.delimiter = Some(delimiter.to_owned());
        self
    }

    /// Only keys, and common prefixes, behind this one.
    #[must_use]
    pub fn after(mut self, key: &str) -> Self {
        self.after = Some(key.to_owned());
        self
    }

    /// Keys and common prefixes of a page at most: 1 to `LIST_KEYS_MAX` (1000), which is what it has if nothing is said.
    #[must_use]
    pub fn page_keys(mut self, keys: usize) -> Self {
        self.limit = keys.clamp(1, LIST_KEYS_MAX) as u32;
        self
    }

    /// The next page; `None` behind the last one. After an error the same page is asked for again.
    ///
    /// # Errors
    /// `NoSuchBucket`, `Denied`.
    pub async fn next(&mut self) -> Result<Option<Arc<Listing>>, Error> {
        let Some(after) = &self.after else { return Ok(None) };
        let list = ObjectOp::List {
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            delimiter: self.delimiter.clone(),
            after: after.clone(),
            limit: self.limit,
        };
        let page = self.client.page(list).await?;
        if page.next.as_ref().is_some_and(|next| next <= after) {
            return Err(Error::bug("a listing does not go on").with("after", after));
        }
        self.after.clone_from(&page.next);
        Ok(Some(page))
    }
}
