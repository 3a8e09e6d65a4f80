// Replication: before a submitter hears that a record is safe, others have it on disk.
import { MeshError } from '../../protocols/error.js'
import { SYSTEM_TIME, type Time } from '../clock.js'

/**
 * How many peers at a time are asked, how long all of them are waited for once one has it, and how long any one is, in
 * milliseconds. The command line waits for 30 s.
 */
const AT_ONCE = 3
const PATIENCE = 3000
const DEADLINE = 15_000
/** Before one that failed is asked again. */
const PAUSE = 250

/**
 * Brings this AP's ledger to a few connected members, and others where those do not answer.
 * @param connected the members that this AP is connected to now
 * @param sync makes two ledgers equal, and resolves once they are on disk
 * @returns how many have it on disk: none only where none is connected
 * @throws MeshError `not-replicated` where some are, and none confirmed in time
 */
export async function replicate(
  connected: () => string[],
  sync: (ap: string) => Promise<unknown>,
  time: Time = SYSTEM_TIME,
): Promise<number> {
  const deadline = time.monotonic() + DEADLINE
  const confirmed = new Set<string>()
  const tried = new Set<string>()
  const asked = new Map<string, Promise<void>>()
  const ask = (ap: string) => {
    tried.add(ap)
    const asking = sync(ap).then(
      () => void confirmed.add(ap),
      () => new Promise<void>((resolve) => time.after(PAUSE, resolve)),
    )
    asked.set(
      ap,
      asking.finally(() => asked.delete(ap)),
    )
  }
  while (confirmed.size === 0) {
    const peers = connected()
    if (peers.length === 0) return 0
    if (time.monotonic() > deadline) throw notReplicated(peers.length)
    // Those that were not asked yet come first.
    const next = peers.filter((ap) => !asked.has(ap)).sort((a, b) => Number(tried.has(a)) - Number(tried.has(b)))
    for (const ap of next.slice(0, AT_ONCE)) ask(ap)
    const patience = Math.min(PATIENCE, Math.max(0, deadline - time.monotonic()))
    let cancel = () => {}
    const late = new Promise<void>((resolve) => {
      cancel = time.after(patience, resolve)
    })
    await Promise.race([Promise.all(asked.values()), late])
    cancel()
  }
  return confirmed.size
}

const notReplicated = (connected: number): MeshError =>
  new MeshError(
    'not-replicated',
    `the record is on the disk of this AP and will spread, but it is not safe yet: none of ${connected} connected APs confirmed it within ${DEADLINE / 1000} s; see "dropmesh status"`,
  )
