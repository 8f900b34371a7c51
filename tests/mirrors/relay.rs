//! A way to a server that ends in the middle, and the server with it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Takes connections to a server until so many bytes have come from it; then `end` runs, every connection is reset, and
/// nobody answers any more.
pub struct Relay {
    host: String,
}

struct Shared {
    to: String,
    left: AtomicU64,
    is_dead: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    end: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Relay {
    pub fn to(host: &str, bytes: u64, end: impl FnOnce() + Send + 'static) -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let relay = Relay { host: listener.local_addr().unwrap().to_string() };
        let shared = Arc::new(Shared {
            to: host.to_owned(),
            left: AtomicU64::new(bytes),
            is_dead: AtomicBool::new(false),
            open: Mutex::default(),
            end: Mutex::new(Some(Box::new(end))),
        });
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.is_dead.load(Ordering::SeqCst) {
                    // The listener ends with this thread: from now on connections are refused.
                    return;
                }
                shared.clone().carry(client);
            }
        });
        relay
    }

    pub fn host(&self) -> &str {
        &self.host
    }
}

impl Shared {
    fn carry(self: Arc<Shared>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(&self.to) else { return };
        let mut kept = self.open.lock().unwrap();
        kept.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
        drop(kept);
        let (mut up, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut up, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
        });
        std::thread::spawn(move || self.bring(server, client));
    }

    fn bring(&self, mut server: TcpStream, mut client: TcpStream) {
        let mut buffer = [0; 64 * 1024];
        while let Ok(count) = server.read(&mut buffer) {
            if count == 0 {
                let _ = client.shutdown(Shutdown::Both);
                return;
            }
            let may = self
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(count as u64)));
            if may.unwrap() <= count as u64 {
                return self.die();
            }
            if client.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    }

    fn die(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
        if let Some(end) = self.end.lock().unwrap().take() {
            end();
        }
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
