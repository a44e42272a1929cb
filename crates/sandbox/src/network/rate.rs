//! How fast one end of a container's wire may send: the kernel's token bucket filter.
//!
//! Each end bounds what it sends, so the two of them bound both ways. Where a sender is on this
//! machine, as an app is, it's made to wait instead of losing packets.
//!
//! Source: tc-tbf(8), `linux/pkt_sched.h`.

use std::io;

use ace_types::BitRate;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_ECHO, NLM_F_REPLACE, Nla};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption, TcStats2};
use rustix::io::Errno;

use super::netlink::Netlink;

const KIND: &str = "tbf";
const HANDLE: TcHandle = TcHandle { major: 1, minor: 0 };
/// Attributes of its options: `TCA_TBF_PARMS`, `TCA_TBF_RATE64`, `TCA_TBF_BURST`.
const PARAMETERS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;
/// Of `struct tc_tbf_qopt`: two `struct tc_ratespec`, then three numbers.
const PARAMETERS_LENGTH: usize = 36;
const ETHERNET: u8 = 1;
const RATE_AT: usize = 8;
const LIMIT_AT: usize = 24;

/// What may be sent at once after a pause: so much of the rate, but at least two of the largest
/// bundles that the kernel sends in one piece.
const BURST_PART: u64 = 50;
const BURST_LEAST: u64 = 128 * 1024;
const BURST_MOST: u64 = 4 << 20;
/// What may wait to be sent: so much of the rate, which is the longest that a packet is held up.
const QUEUE_PART: u64 = 20;

/// Lets the link number `index` send at `rate` at most. May be called twice. Returns whether this
/// kernel can.
pub fn limit_rate(netlink: &Netlink, index: u32, rate: BitRate) -> io::Result<bool> {
    let Bucket { rate, burst, limit } = Bucket::of(rate);
    let mut parameters = [0_u8; PARAMETERS_LENGTH];
    parameters[1] = ETHERNET;
    // Whoever reads just this sees the most that it can say.
    parameters[RATE_AT..RATE_AT + 4].copy_from_slice(&shown(rate).to_ne_bytes());
    parameters[LIMIT_AT..LIMIT_AT + 4].copy_from_slice(&limit.to_ne_bytes());
    let options = [
        (PARAMETERS, parameters.to_vec()),
        (RATE64, rate.to_ne_bytes().to_vec()),
        (BURST, burst.to_ne_bytes().to_vec()),
    ];
    let option = |(kind, value)| TcOption::Other(DefaultNla::new(kind, value));
    let mut message = of_link(index)?;
    message.attributes = vec![
        TcAttribute::Kind(KIND.to_owned()),
        TcAttribute::Options(options.into_iter().map(option).collect()),
    ];
    let message = RouteNetlinkMessage::NewQueueDiscipline(message);
    match netlink.request(message, NLM_F_CREATE | NLM_F_REPLACE) {
        Err(error) if is_unknown(&error) => Ok(false),
        result => result.map(|_| true),
    }
}

/// Whether the link number `index` has just the limit that [`limit_rate`] sets.
pub fn has_rate(netlink: &Netlink, index: u32, rate: BitRate) -> io::Result<bool> {
    let wanted = Bucket::of(rate);
    Ok(found(netlink, index)?.is_some_and(|found| wanted.stands_in(&found)))
}

/// What one end of a wire has sent, as its limit counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    pub bytes: u64,
    /// How often what was to be sent had to wait for its turn, or was dropped for want of room to wait.
    pub held_back: u64,
}

/// What the link number `index` has sent; `None` where it has no limit that counts.
pub fn sent(netlink: &Netlink, index: u32) -> io::Result<Option<Sent>> {
    let Some(found) = found(netlink, index)? else { return Ok(None) };
    let is_ours = found.attributes.contains(&TcAttribute::Kind(KIND.to_owned()));
    Ok(is_ours.then(|| {
        let all = found.attributes.iter().filter_map(|attribute| match attribute {
            TcAttribute::Stats2(stats) => Some(stats),
            _ => None,
        });
        all.flatten().fold(Sent::default(), |sent, stat| match stat {
            TcStats2::Basic(basic) => Sent { bytes: basic.bytes, ..sent },
            TcStats2::Queue(queue) => {
                Sent { held_back: u64::from(queue.overlimits) + u64::from(queue.drops), ..sent }
            }
            _ => sent,
        })
    }))
}

/// What stands at the link number `index` where [`limit_rate`] sets its limit.
fn found(netlink: &Netlink, index: u32) -> io::Result<Option<TcMessage>> {
    let message = RouteNetlinkMessage::GetQueueDiscipline(of_link(index)?);
    // Without being asked to echo, the kernel tells only those who listen to all changes.
    let answers = match netlink.request(message, NLM_F_ECHO) {
        // It has none by that handle.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput || is_unknown(&error) => {
            return Ok(None);
        }
        answers => answers?,
    };
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(found) => Some(found),
        _ => None,
    }))
}

/// A token bucket, in bytes and bytes a second.
#[derive(Debug, PartialEq, Eq)]
struct Bucket {
    rate: u64,
    burst: u32,
    limit: u32,
}

impl Bucket {
    fn of(rate: BitRate) -> Self {
        let rate = rate.bytes_per_second().max(1);
        let burst = (rate / BURST_PART).clamp(BURST_LEAST, BURST_MOST);
        let limit = shown(burst + rate / QUEUE_PART);
        Self { rate, burst: shown(burst), limit }
    }

    fn stands_in(&self, found: &TcMessage) -> bool {
        let is_ours = |attribute: &TcAttribute| match attribute {
            TcAttribute::Kind(kind) => kind == KIND,
            _ => false,
        };
        let value = found.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Options(options) => options.iter().find_map(options_of),
            _ => None,
        });
        // The parameters come first, after their own length and kind.
        let number = |at: usize| {
            let bytes = value.as_ref()?.get(4 + at..)?.first_chunk()?;
            Some(u32::from_ne_bytes(*bytes))
        };
        found.attributes.iter().any(is_ours)
            && number(RATE_AT) == Some(shown(self.rate))
            && number(LIMIT_AT) == Some(self.limit)
    }
}

fn options_of(option: &TcOption) -> Option<Vec<u8>> {
    let TcOption::Other(options) = option else { return None };
    let mut value = vec![0; options.value_len()];
    options.emit_value(&mut value);
    Some(value)
}

fn of_link(index: u32) -> io::Result<TcMessage> {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(index).map_err(io::Error::other)?;
    message.header.handle = HANDLE;
    message.header.parent = TcHandle::ROOT;
    Ok(message)
}

/// Whether the kernel knows nothing of such a filter.
fn is_unknown(error: &io::Error) -> bool {
    let unknown = [Errno::NOENT, Errno::OPNOTSUPP].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| unknown.contains(&code))
}

fn shown(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_small_for_what_it_holds_up_and_large_enough_for_a_bundle() {
        let usual = Bucket::of(BitRate::mega(50));
        assert_eq!(usual, Bucket { rate: 6_250_000, burst: 131_072, limit: 443_572 });
        assert_eq!(Bucket::of(BitRate::mega(1)).burst, 131_072);
        let fastest = Bucket::of(BitRate::mega(100_000));
        assert_eq!((fastest.rate, fastest.burst), (12_500_000_000, 4 << 20));
    }
}
