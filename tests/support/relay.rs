//! A relay before a server: counts what clients send, and holds connections back where a test says.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;

/// Longest wait for something that nobody announces.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that the system keeps for us before we read them, about.
const BUFFER: usize = 256 * 1024;

/// Listens on 127.0.0.1 and hands everything on. Ends with the process.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    flow: Mutex<Flow>,
    changed: Condvar,
}

struct Flow {
    /// Bytes that went up to the server.
    sent: u64,
    /// After so many bytes a connection waits.
    hold: u64,
    held: usize,
}

impl Relay {
    /// Before the server at `to` (`host:port`).
    pub fn start(to: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        // What a connection that waits has sent beyond that lies in buffers: its connections inherit this one.
        set_socket_recv_buffer_size(&listener, BUFFER).expect("a socket has a buffer");
        let address = listener.local_addr().expect("it is bound");
        let flow = Mutex::new(Flow { sent: 0, hold: u64::MAX, held: 0 });
        let shared = Arc::new(Shared { flow, changed: Condvar::new() });
        let (serving, to) = (Arc::clone(&shared), to.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A server that is gone: the client sees its connection end.
                let Ok(server) = TcpStream::connect(&to) else { continue };
                let (up, down) = (clone(&client, &server), clone(&server, &client));
                let shared = Arc::clone(&serving);
                std::thread::spawn(move || shared.hand_up(up));
                std::thread::spawn(move || hand_down(down));
            }
        });
        Relay { address, shared }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Bytes that went up so far, heads of requests among them.
    pub fn sent(&self) -> u64 {
        self.shared.lock().sent
    }

    /// From now on a connection waits when it has sent so many bytes.
    pub fn hold_after(&self, bytes: u64) {
        self.shared.lock().hold = bytes;
    }

    /// Waits until a connection waits.
    pub fn until_held(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut flow = self.shared.lock();
        while flow.held == 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no connection sent so much; {} bytes in all", flow.sent);
            flow = self.shared.changed.wait_timeout(flow, left).expect("no test panics while it looks").0;
        }
    }

    /// Lets everything go on.
    pub fn release(&self) {
        self.shared.lock().hold = u64::MAX;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().expect("no test panics while it looks")
    }

    fn hand_up(&self, (mut from, mut to): (TcpStream, TcpStream)) {
        let (mut buffer, mut own) = ([0; 16 * 1024], 0);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let mut flow = self.lock();
            if own >= flow.hold {
                flow.held += 1;
                self.changed.notify_all();
                flow = self.changed.wait_while(flow, |flow| own >= flow.hold).expect("no test panics while it looks");
                flow.held -= 1;
            }
            own += count as u64;
            flow.sent += count as u64;
            drop(flow);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

fn clone(from: &TcpStream, to: &TcpStream) -> (TcpStream, TcpStream) {
    (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"))
}

fn hand_down((mut from, mut to): (TcpStream, TcpStream)) {
    // An end on either side is the end.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}
