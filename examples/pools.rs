//! Connections that belong to the threads of a pool. A job opens one when it first needs it, and it
//! is closed when the pool lets the thread go, without any hook of rayon or tokio.
//!
//! ```text
//! cargo run --example pools
//! ```

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Something that is expensive to open and must be closed.
struct Connection {
    pool: &'static str,
    requests: usize,
}

impl Connection {
    fn open(pool: &'static str) -> Self {
        OPEN.fetch_add(1, Ordering::SeqCst);
        Self { pool, requests: 0 }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::SeqCst);
        println!("{}: a connection is closed after {} requests", self.pool, self.requests);
    }
}

exeunt::stack_local! {
    static CONNECTION: RefCell<Option<Connection>> = const { RefCell::new(None) };
}

fn request(pool: &'static str) {
    CONNECTION.with_borrow_mut(|connection| connection.get_or_insert_with(|| Connection::open(pool)).requests += 1);
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
    pool.scope(|scope| (0..100).for_each(|_| scope.spawn(|_| request("rayon"))));
    println!("rayon: {} connections are open while the pool lives", OPEN.load(Ordering::SeqCst));
    drop(pool);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    runtime.block_on(async {
        let tasks: Vec<_> = (0..100).map(|_| tokio::spawn(async { request("tokio") })).collect();
        for task in tasks {
            task.await?;
        }
        Ok::<(), tokio::task::JoinError>(())
    })?;
    drop(runtime);

    // rayon does not wait for its threads to end, so this example does.
    for _ in 0..10_000 {
        if OPEN.load(Ordering::SeqCst) == 0 {
            println!("all connections are closed");
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err("connections are left open".into())
}
