//! A stream of lines that is followed: it's taken up again where it broke, when the engine is back.

use std::io;
use std::time::Duration;

use http::Method;
use serde::de::DeserializeOwned;

use crate::client::{ANSWER_DEADLINE, Client, ClientError, empty_body, within};
use crate::error::CommandError;
use crate::screen::Screen;

/// How often, and with which pause, an engine that has gone is asked for again: for five minutes.
const TRIES: u32 = 300;
const PAUSE: Duration = Duration::from_secs(1);

/// What is followed.
pub trait Followed {
    type Line: DeserializeOwned;

    /// Where to ask for what comes behind all that was taken.
    fn path(&self) -> String;

    fn take(&mut self, line: Self::Line) -> io::Result<()>;

    /// The stream has broken, and is about to be taken up again.
    fn resume(&mut self) {}
}

/// Takes all lines that there are.
pub async fn read(what: &mut impl Followed, client: &Client) -> Result<(), CommandError> {
    stream(what, client, &mut false).await
}

/// The same, and goes on when the engine has been away. Ends with what is followed.
pub async fn follow(
    what: &mut impl Followed,
    client: &Client,
    screen: &Screen,
) -> Result<(), CommandError> {
    let mut failures = 0;
    // Whether there has been a stream at all, and whether its end came from the engine's side in order.
    let (mut has_begun, mut has_ended) = (false, false);
    loop {
        let mut is_open = false;
        let result = stream(what, client, &mut is_open).await;
        if is_open {
            (has_begun, failures) = (true, 0);
        }
        match result {
            Ok(()) => has_ended = true,
            // What was followed is gone, as an app that was destroyed.
            Err(CommandError::Client(ClientError::Refused(_))) if has_ended => return Ok(()),
            Err(CommandError::Client(error)) if has_begun && is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        failures += 1;
        if failures > TRIES {
            let server = client.server();
            let text = format!("the engine at {server} has not come back within five minutes");
            return Err(CommandError::Refused(text));
        }
        // A stream that ends in order is asked for once before anything is said.
        if failures == 2 {
            screen.note("the engine is gone; asking for it again for five minutes");
        }
        tokio::time::sleep(PAUSE).await;
        what.resume();
    }
}

/// Whether the engine may only be away.
fn is_passing(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::NotRunning { .. }
            | ClientError::Unreachable { .. }
            | ClientError::Broken { .. }
            | ClientError::Slow { .. }
    )
}

async fn stream(
    what: &mut impl Followed,
    client: &Client,
    is_open: &mut bool,
) -> Result<(), CommandError> {
    let path = what.path();
    let open = client.lines(Method::GET, &path, empty_body());
    let mut lines = within(ANSWER_DEADLINE, "opening the stream", open).await?;
    *is_open = true;
    // No deadline for the next line: there may be none for long, and Ctrl-C is at hand.
    while let Some(line) = lines.next().await? {
        what.take(line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::client_of;

    #[derive(Default)]
    struct Numbers(Vec<u32>);

    impl Followed for Numbers {
        type Line = u32;

        fn path(&self) -> String {
            format!("/v1/numbers?after={}", self.0.len())
        }

        fn take(&mut self, line: u32) -> io::Result<()> {
            self.0.push(line);
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_does_not_come_back_is_given_up() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n1\n2\n";
        let (client, folder) = client_of(answer);
        let mut numbers = Numbers::default();
        // The one answer breaks off, and then there is no engine.
        let socket = folder.path().join("s");
        let gone = async {
            tokio::time::sleep(PAUSE / 2).await;
            std::fs::remove_file(socket)
        };
        let screen = Screen::plain();
        let (result, removed) = tokio::join!(follow(&mut numbers, &client, &screen), gone);
        assert!(removed.is_ok());
        assert!(matches!(result, Err(CommandError::Refused(_))), "{result:?}");
        assert_eq!(numbers.0, [1, 2]);
    }
}
