// Reads what can still be read of a damaged LevelDB, in a process of its own: LevelDB checks its own thoughts with
// assertions, and where a flipped bit has put two keys out of order it aborts the process that reads or mends them.
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { Level } from 'level'
import { messageOf } from '../../protocols/error.js'
import { type Entry, level } from './layout.js'

/** What the process says: entries, and in the end why it could not read them all. */
type Message = { entries: Entry[] } | { failure: string | undefined; isLocked: boolean }

/** Entries in one message. */
const PAGE = 500

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
    const child = fork(fileURLToPath(import.meta.url), ['salvage', dir, String(repair)], {
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

/** LevelDB's own repair. `level` hands out the class of classic-level, but its types leave this out. */
const repairFiles = (Level as unknown as { repair(dir: string): Promise<void> }).repair

async function readAll(dir: string, repair: boolean): Promise<void> {
  if (repair) await repairFiles(dir)
  const db = level(dir)
  await db.open({ createIfMissing: false })
  let failure: string | undefined
  let page: Entry[] = []
  const read = async (range: object) => {
    for await (const [key, value] of db.iterator(range)) {
      if (page.push({ key, value }) < PAGE) continue
      await send({ entries: page })
      page = []
    }
  }
  await read({}).catch((error) => {
    failure = messageOf(error)
  })
  if (failure !== undefined) {
    for (const range of ranges()) {
      await send({ entries: page }) // before something aborts the process
      page = []
      // What lies behind the damage can be read from the other end.
      await read(range).catch(() => read({ ...range, reverse: true }).catch(() => {}))
    }
  }
  await send({ entries: page })
  await send({ failure, isLocked: false })
}

/** All keys there are, in so many ranges that damage in one leaves most of the records to be read. */
function* ranges(): Generator<object> {
  yield { lt: 'record!' }
  for (let prefix = 0; prefix < 4096; prefix++) {
    const from = `record!${prefix.toString(16).padStart(3, '0')}`
    yield { gte: from, lt: `${from}g` }
  }
  yield { gte: 'record"' }
}

const send = (message: Message): Promise<void> =>
  new Promise((resolve, reject) => {
    process.send!(message, (error: Error | null) => (error === null ? resolve() : reject(error)))
  })

if (process.argv[2] === 'salvage' && process.send !== undefined) {
  await readAll(process.argv[3]!, process.argv[4] === 'true').catch(({ cause }) =>
    send({ failure: messageOf(cause), isLocked: cause?.code === 'LEVEL_LOCKED' }),
  )
  process.exit(0)
}
