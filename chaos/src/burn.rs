//! Other work on the machine: processes that do nothing but take processor time.

use std::hint::black_box;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// A busy machine has more to do than it has processors.
const PER_PROCESSOR: usize = 2;

/// Steps between two looks at the clock.
const STEPS: u64 = 1 << 20;

/// Processes of normal priority that spin, two for each processor. Dropping this ends them.
#[derive(Debug)]
pub struct Burners {
    children: Vec<Child>,
}

impl Burners {
    /// Starts them; each ends by itself after `limit`, should nobody end it earlier.
    pub fn start(limit: Duration) -> anyhow::Result<Burners> {
        let processors = std::thread::available_parallelism().context("count processors")?;
        let program = std::env::current_exe().context("path of this program")?;
        let mut burners = Burners {
            children: Vec::new(),
        };
        for _ in 0..processors.get() * PER_PROCESSOR {
            let child = Command::new(&program)
                .args(["burn", "--seconds", &limit.as_secs().max(1).to_string()])
                .stdin(Stdio::null())
                .spawn()
                .context("start a burner")?;
            burners.children.push(child);
        }
        Ok(burners)
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.children.len()
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended by itself needs no killing.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What each of those processes does.
pub fn burn(limit: Duration) -> anyhow::Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("asking to die with the drill")?;
    let begun = Instant::now();
    let mut state = 1_u64;
    while begun.elapsed() < limit {
        for _ in 0..STEPS {
            state = black_box(
                state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1),
            );
        }
    }
    Ok(())
}
