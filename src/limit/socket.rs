//! What the system knows of a connection (tcp(7), `TCP_INFO`).

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

use rustix::net::SocketAddrAny;

/// Headers of Ethernet, IP and TCP with a timestamp, in bytes: what a packet has on the wire besides its load.
const HEADERS: u64 = 66;
/// What Linux has told since 4.10 at least, in bytes.
const KNOWN: usize = 160;

/// What the system has counted and measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observed {
    /// The other side.
    pub peer: Option<IpAddr>,
    /// This side.
    pub local: Option<IpAddr>,
    /// Bytes that came over the wire, headers counted.
    pub arrived: u64,
    /// Bytes that left, headers and what had to be sent again counted; 0 on systems before 4.19, which do not tell.
    pub sent: u64,
    /// The way there and back as the receiver sees it; `None` while it does not know.
    pub receiving: Option<Duration>,
    /// The same as the sender sees it.
    pub sending: Option<Duration>,
    /// Packets that came out of their order or had to be sent again: others were lost before them.
    pub lost: u64,
}

/// Asks the system about a TCP connection; `None` where it does not tell.
pub fn observe(socket: &impl AsFd) -> Option<Observed> {
    let (mut bytes, mut length) = ([0_u8; 256], 256 as libc::socklen_t);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is borrowed and open, the buffer is as long as stated, and bytes have no invalid values.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, bytes.as_mut_ptr().cast(), &raw mut length) };
    let address = |name: SocketAddrAny| SocketAddr::try_from(name).ok().map(|address| address.ip());
    let peer = rustix::net::getpeername(socket).ok().flatten().and_then(address);
    let local = rustix::net::getsockname(socket).ok().and_then(address);
    (result == 0 && length as usize >= KNOWN).then(|| Observed { peer, local, ..read(&bytes) })
}

/// Picks out of `struct tcp_info` (linux/tcp.h) what is of use here.
fn read(bytes: &[u8; 256]) -> Observed {
    let four = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let time = |at: usize| Some(four(at)).filter(|time| *time != 0).map(|time| Duration::from_micros(time.into()));
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[128..136]);
    let received = u64::from_ne_bytes(eight);
    eight.copy_from_slice(&bytes[200..208]);
    let sent = u64::from_ne_bytes(eight);
    let headers = if sent > 0 { u64::from(four(136)) * HEADERS } else { 0 };
    Observed {
        arrived: received.saturating_add(u64::from(four(140)) * HEADERS),
        sent: sent.saturating_add(headers),
        receiving: time(92),
        sending: time(68),
        // What is not known to systems before 5.4 is 0. What the other side says came twice was only late.
        lost: u64::from(four(224)) + u64::from(four(100).saturating_sub(four(216))),
        peer: None,
        local: None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn the_system_counts_what_nobody_has_read_yet() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let before = observe(&near).unwrap();
        far.write_all(&[7; 10_000]).await.unwrap();
        near.read_exact(&mut [0]).await.unwrap();
        let arrived = observe(&near).unwrap().arrived - before.arrived;
        assert!((10_066..11_000).contains(&arrived), "{arrived}");
        let sent = observe(&far).unwrap().sent;
        assert!((10_066..11_000).contains(&sent), "{sent}");
        assert!(observe(&far).unwrap().sending.is_some());
    }
}
