// Lives of a program that writes to a store, each of them cut short.
import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import * as assert from 'uvu/assert'
import { Store } from '../../../node/store/store.js'
import { until } from '../../support/until.js'
import { hashes } from '../realm.js'

const program = fileURLToPath(new URL('writer.js', import.meta.url))

export class Life {
  readonly child: ChildProcess
  private output = ''
  private readonly ended: Promise<void>

  constructor(data: string) {
    this.child = spawn(process.execPath, [program, data], { stdio: ['ignore', 'pipe', 'inherit'] })
    this.child.stdout!.setEncoding('latin1').on('data', (text: string) => {
      this.output += text
    })
    this.ended = new Promise((resolve) => this.child.once('close', () => resolve()))
  }

  private get lines(): string[] {
    return this.output.split('\n').slice(0, -1)
  }

  get boots(): number[] {
    return this.lines.flatMap((line) => (line.startsWith('boot ') ? Number(line.slice(5)) : []))
  }

  get damages(): string[] {
    return this.lines.filter((line) => line.startsWith('damage '))
  }

  get acknowledged(): string[] {
    return this.lines.filter((line) => /^[0-9a-f]{64}$/.test(line))
  }

  /** Lets it live until it is in the middle of something: of starting, or of writing. */
  async somewhere(isEarly: boolean): Promise<void> {
    const patience = { deadlineMs: 30_000, everyMs: 1 }
    await until('a start', () => this.boots.length > 0, patience)
    if (isEarly) return void (await new Promise((resolve) => setTimeout(resolve, Math.random() * 40)))
    const enough = 1 + Math.floor(Math.random() * 200)
    await until('acknowledgements', () => this.acknowledged.length >= enough, patience)
  }

  /** Kills it, and waits for all that it said. */
  async kill(): Promise<void> {
    this.child.kill('SIGKILL')
    await this.ended
  }
}

/** Sees that all of the lives' acknowledged records are on disk, and that no two of them had the same boot counter. */
export async function check(data: string, lives: readonly Life[]): Promise<void> {
  const store = await Store.open(join(data, 'ledger'))
  assert.is(store.damage, undefined, JSON.stringify(store.damage))
  const onDisk = new Set(hashes(store.takeRecords()))
  await store.close()
  for (const { acknowledged, damages } of lives) {
    assert.equal(damages, [])
    for (const hash of acknowledged) assert.ok(onDisk.has(hash), `${hash} was acknowledged, and is lost`)
  }
  const boots = lives.flatMap((life) => life.boots)
  assert.is(new Set(boots).size, boots.length, `boots ${boots}`)
}
