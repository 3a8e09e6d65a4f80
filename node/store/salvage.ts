// Reads what can still be read of a damaged LevelDB, in a process of its own: LevelDB checks its own thoughts with
// assertions, and where a flipped bit has put two keys out of order it aborts the process that reads or mends them.
import { fork } from 'node:child_process'
import { messageOf } from '../../protocols/error.js'
import { programFile } from '../root.js'
import type { Entry } from './layout.js'
import type { Message } from './salvager.js'

export interface Salvaged {
  readonly entries: Entry[]
  /** What stood in the way of reading all of it. */
  readonly failure: string | undefined
  /** Another process has it open. */
  readonly isLocked: boolean
}

/** Reads all entries of a LevelDB that nobody has open; after LevelDB's own repair if `repair` is true. Never throws. */
export function salvage(dir: string, repair = false): Promise<Salvaged> {
  return new Promise((resolve) => {
    const entries: Entry[] = []
    let end: { failure: string | undefined; isLocked: boolean } = {
      failure: 'LevelDB aborts when it reads it',
      isLocked: false,
    }
    const child = fork(programFile('salvager'), [dir, String(repair)], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      execArgv: [],
    })
    child.on('message', (message: Message) => {
      if ('entries' in message) entries.push(...message.entries)
      else end = message
    })
    child.once('error', (error) => resolve({ entries, failure: messageOf(error), isLocked: false }))
    child.once('close', () => resolve({ entries, ...end }))
  })
}
