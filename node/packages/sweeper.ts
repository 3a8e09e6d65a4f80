// Frees what a transfer leaves behind. V8 counts the buffers that a socket and a cipher fill against the limit of its heap, and after
// every dozen MB of them it marks the whole heap: that took three fifths of the CPU time of a transfer, and more the larger the ledger
// is. Those buffers die young, and a collection of the young alone, each 2 MB, frees them in less than a millisecond.
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** Bytes of blobs, in or out, after which the young generation is collected: with 4 MB it was too late half of the time. */
const EVERY = 2_000_000

export class Sweeper {
  private passed = 0
  private collect: ((options: { type: 'minor' }) => void) | undefined

  /** So many bytes of a blob came or went. */
  note(bytes: number): void {
    this.passed += bytes
    if (this.passed < EVERY) return
    this.passed = 0
    this.collect ??= collector()
    this.collect({ type: 'minor' })
  }
}

// Node gives this function to all scripts or to none; this way nobody else gets it.
function collector(): (options: { type: 'minor' }) => void {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc')
  setFlagsFromString('--no-expose-gc')
  return typeof collect === 'function' ? collect : () => {}
}
