// `npm run sim:calm`: meshes in which nobody dies, for a long time, under loss, latency and slow APs. Whoever is told dead is a
// mistake; its story is printed.
import { fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { Members } from './detector.js'
import { Figures } from './figures.js'
import { COMMON, CommandLine } from './options.js'
import { sizesWith } from './sizes.js'
import { type Conditions, type Troubles, World } from './world.js'

const USAGE = `npm run sim:calm -- [options]
  --ap-days N      days times APs (100)
  --aps N          in each mesh (50)
  --loss SHARE     of packets, each way (0.01)
  --latency MS     one way (20)
  --jitter MS      more or less than that (10)
  --pause MS       an AP stands still for so long (1000) …
  --pause-every S  … so often, each of them; never if not given
  --starve S       an AP gets a turn each 200 to 800 ms for so long (30) …
  --starve-every S … so often, each of them; never if not given
  --outage MS      nothing comes from or to an AP for so long (1000) …
  --outage-every S … so often, each of them; never if not given
  --seed S         (1)`

const DAY = 86_400_000
/** Each mesh is played for so long, in milliseconds, so that all cores have some. */
const CHUNK = DAY / 4
const WARM_UP = 20_000

export interface CalmOptions {
  readonly aps: number
  readonly conditions: Conditions
  readonly troubles: Troubles
  /** Milliseconds, beside the time in which a mesh comes to rest. */
  readonly length: number
  readonly seed: string
}

export interface CalmResult {
  readonly falseDeaths: number
  readonly falseSuspicions: number
  readonly probes: number
  readonly statements: number
  readonly events: number
  readonly cpuSeconds: number
  readonly stories: readonly string[]
}

export function playCalm({ aps, conditions, troubles, length, seed }: CalmOptions): CalmResult {
  const before = process.cpuUsage()
  const figures = new Figures()
  const members = new Members(aps, () => undefined)
  const world = new World(members, conditions, sizesWith(0), figures, `calm ${seed}`, troubles)
  figures.world = world
  world.runUntil(WARM_UP + length)
  const { user, system } = process.cpuUsage(before)
  return {
    ...{ falseDeaths: figures.falseDeaths.length, falseSuspicions: figures.falseSuspicions },
    ...{ probes: world.probes, statements: figures.statements },
    ...{ events: world.queue.events, cpuSeconds: (user + system) / 1e6 },
    stories: figures.stories.map((story) => `seed ${seed}: ${story}`),
  }
}

const add = (a: CalmResult, b: CalmResult): CalmResult => ({
  falseDeaths: a.falseDeaths + b.falseDeaths,
  falseSuspicions: a.falseSuspicions + b.falseSuspicions,
  probes: a.probes + b.probes,
  statements: a.statements + b.statements,
  events: a.events + b.events,
  cpuSeconds: a.cpuSeconds + b.cpuSeconds,
  stories: [...a.stories, ...b.stories],
})
const NOTHING: CalmResult = {
  ...{ falseDeaths: 0, falseSuspicions: 0, probes: 0, statements: 0, events: 0, cpuSeconds: 0, stories: [] },
}

/** Hands chunks out to a process a core. */
async function direct(chunks: CalmOptions[]): Promise<void> {
  const began = performance.now()
  const first = chunks[0]!
  const total = chunks.reduce((sum, { length }) => sum + (length * first.aps) / DAY, 0)
  let result = NOTHING
  let done = 0
  const left = [...chunks]
  const take = (chunk: CalmOptions, one: CalmResult) => {
    result = add(result, one)
    done += (chunk.length * chunk.aps) / DAY
    for (const story of one.stories) console.log(`\n${story}`)
    if (process.stdout.isTTY || one.stories.length > 0)
      console.log(`${done.toFixed(1)} of ${total} AP-days, ${result.falseDeaths} false deaths`)
  }
  const processes = Math.min(availableParallelism(), left.length)
  await Promise.all(Array.from({ length: processes }, () => employ(left, take)))
  const { falseDeaths, falseSuspicions, probes, statements, events, cpuSeconds } = result
  const perDay = (count: number) => (count / total).toFixed(2)
  console.log(`false deaths          ${falseDeaths} in ${total} AP-days`)
  console.log(`false suspicions      ${perDay(falseSuspicions)} an AP-day (each AP that suspects counts)`)
  console.log(`probes                ${perDay(probes)} an AP-day`)
  console.log(`statements            ${perDay(statements)} an AP-day`)
  console.log(
    `took                  ${((performance.now() - began) / 1000).toFixed(0)} s, ${cpuSeconds.toFixed(0)} s of CPU; ` +
      `${(events / cpuSeconds / 1e6).toFixed(2)} million events a second of CPU`,
  )
  process.exitCode = falseDeaths > 0 ? 1 : 0
}

function employ(left: CalmOptions[], take: (chunk: CalmOptions, result: CalmResult) => void): Promise<void> {
  const worker = fork(fileURLToPath(import.meta.url), ['--worker'])
  return new Promise((resolve, reject) => {
    let chunk: CalmOptions | undefined
    const next = () => {
      chunk = left.shift()
      if (chunk !== undefined) return worker.send(chunk)
      worker.disconnect()
      resolve()
      return true
    }
    worker.on('message', (result: CalmResult) => {
      take(chunk!, result)
      next()
    })
    worker.on('error', reject)
    worker.on('exit', (code) => code !== 0 && reject(new Error(`a simulating process ended with ${code}`)))
    next()
  })
}

async function main(): Promise<void> {
  if (process.argv[2] === '--worker') {
    process.on('message', (chunk: CalmOptions) => process.send!(playCalm(chunk)))
    await new Promise((resolve) => process.once('disconnect', resolve))
    return
  }
  const line = new CommandLine(USAGE)
  const args = line.read({
    ...COMMON,
    'ap-days': { type: 'string', default: '100' },
    aps: { type: 'string', default: '50' },
    pause: { type: 'string', default: '1000' },
    'pause-every': { type: 'string' },
    starve: { type: 'string', default: '30' },
    'starve-every': { type: 'string' },
    outage: { type: 'string', default: '1000' },
    'outage-every': { type: 'string' },
  })
  const [aps, days] = [Number(args.aps), Number(args['ap-days'])]
  if (!(aps >= 2 && aps <= 1000 && days > 0)) line.stop('--aps takes 2 to 1000, --ap-days more than 0')
  const conditions = line.conditions(args)
  const { loss, latency, jitter } = conditions
  const seconds = (value: string | undefined) => (value === undefined ? undefined : Number(value) * 1000)
  const troubles: Troubles = {
    ...{ pause: Number(args.pause), pauseEvery: seconds(args['pause-every']) },
    ...{ starved: seconds(args.starve)!, starveEvery: seconds(args['starve-every']) },
    ...{ outage: Number(args.outage), outageEvery: seconds(args['outage-every']) },
  }
  const whole = (days / aps) * DAY
  const count = Math.ceil(whole / CHUNK)
  const chunks = Array.from({ length: count }, (_, i) => ({
    ...{ aps, conditions, troubles, length: whole / count, seed: `${args.seed}.${i}` },
  }))
  const slow = [
    ...(args['pause-every'] === undefined ? [] : [`stand still for ${args.pause} ms each ${args['pause-every']} s`]),
    ...(args['outage-every'] === undefined ? [] : [`are cut off for ${args.outage} ms each ${args['outage-every']} s`]),
    ...(args['starve-every'] === undefined ? [] : [`are starved for ${args.starve} s each ${args['starve-every']} s`]),
  ]
  console.log(
    `${days} AP-days in meshes of ${aps}, ${100 * loss} % loss, ${latency} ± ${jitter} ms one way` +
      `${slow.length > 0 ? `; APs ${slow.join(' and ')}` : ''}`,
  )
  await direct(chunks)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main()
