// What a test borrows from the machine it runs on, a folder or a port, and gives back when the process ends.

import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'

const cleanups: (() => void)[] = []

/** Runs `cleanup`, which must be synchronous, when the process ends: by itself, by an exception or by a signal that can
 *  be caught. Last registered, first run. */
export function atExit(cleanup: () => void): void {
  if (cleanups.length === 0) {
    process.on('exit', () => {
      for (const each of cleanups.reverse()) {
        try {
          each()
        } catch (error) {
          console.error('cleaning up at exit failed:', error)
        }
      }
    })
    // Without a handler these end the process without an 'exit' event.
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => process.exit(128 + constants.signals[signal]))
    }
  }
  cleanups.push(cleanup)
}

/** A new empty folder, removed with all that is in it when the process ends. The path is short enough for Unix sockets
 *  in it (they are limited to 107 bytes). */
export function scratch(prefix = 'dropmesh'): string {
  const folder = mkdtempSync(join(tmpdir(), `${prefix}-`))
  atExit(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }))
  return folder
}

const handedOut = new Set<number>()

/** A TCP port on 127.0.0.1 that was free a moment ago, and that no earlier call in this process returned. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = await new Promise<number>((resolve, reject) => {
      const server = createServer()
      server.once('error', reject)
      server.listen(0, '127.0.0.1', () => {
        const address = server.address()
        server.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
      })
    })
    if (port > 0 && !handedOut.has(port)) {
      handedOut.add(port)
      return port
    }
  }
}
