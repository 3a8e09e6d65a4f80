// The program that salvage.ts runs: reads what it can of a LevelDB, and tells it to who started it.
import { Level } from 'level'
import { messageOf } from '../../protocols/error.js'
import { type Entry, level } from './layout.js'

/** What it says: entries, and in the end why it could not read them all. */
export type Message = { entries: Entry[] } | { failure: string | undefined; isLocked: boolean }

/** Entries in one message. */
const PAGE = 500

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

const [, , dir, repair] = process.argv
await readAll(dir!, repair === 'true').catch(({ cause }) =>
  send({ failure: messageOf(cause), isLocked: cause?.code === 'LEVEL_LOCKED' }),
)
process.exit(0)
