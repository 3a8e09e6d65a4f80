// `npm run sim:scale`: meshes of growing size idle, through restarts, the crash of one AP in twenty, and the loss of a site.
import { fileURLToPath } from 'node:url'
import { Members } from './detector.js'
import { Figures, quantile } from './figures.js'
import { COMMON, CommandLine } from './options.js'
import { sizesWith } from './sizes.js'
import { type Conditions, World } from './world.js'

const USAGE = `npm run sim:scale -- [options]
  --aps N,N…       sizes of meshes (50,500,5000,10000)
  --loss SHARE     of packets, each way (0.01)
  --latency MS     one way (20)
  --jitter MS      more or less than that (10)
  --instances N    that each AP runs, which its beacon tells (4)
  --seed S         (1)`

/** All in milliseconds. */
const WARM_UP = 20_000
const IDLE = 60_000
const SETTLE = 15_000
const AFTER_CRASH = 10_000
const AFTER_SITE = 40_000
const ROUNDS = 5
const EACH_ROUND = 8000
const DOWN = 1200
/** What a node says and waits for before it steps aside, as in node/ap.ts. */
const AWAY = 30_000
const WORD_PATIENCE = 300

const CRASHED = 0.05
/** One AP in five is of a site. */
const IN_SITES = 5
const SITE = 40

export interface ScaleOptions {
  readonly aps: number
  readonly conditions: Conditions
  readonly instances: number
  readonly seed: string
}

/** Plays one mesh, and returns rows of a table. */
export function playMesh({ aps, conditions, instances, seed }: ScaleOptions): {
  rows: [string, string][]
  figures: Figures
} {
  const [began, cpuBefore] = [performance.now(), process.cpuUsage()]
  const sites = Math.max(1, Math.round(aps / IN_SITES / SITE))
  const siteSize = Math.min(SITE, Math.floor(aps / IN_SITES))
  const members = new Members(aps, (ap) => (ap < sites * siteSize ? `site${Math.floor(ap / siteSize)}` : undefined))
  const figures = new Figures()
  const world = new World(members, conditions, sizesWith(instances), figures, `scale ${seed} ${aps}`)
  figures.world = world
  const rows: [string, string][] = [
    ['neighbourhoods', `${members.homes.length}`],
    ['APs in one, least to most', range(members.homes.map(({ length }) => length))],
    ['APs kept track of by one', range(members.tracked.map(({ length }) => length - 1))],
  ]

  world.runUntil(WARM_UP)
  world.forgetTraffic()
  world.runUntil(WARM_UP + IDLE)
  const rate = (counts: Float64Array, unit: number) => {
    const rates = [...counts].map((count) => (count * unit) / (IDLE / 1000))
    return `${quantile(rates, 0.5).toFixed(1)}  ${Math.max(...rates).toFixed(1)}`
  }
  rows.push(['idle: packets/s out, p50 max', rate(world.sent, 1)], ['              in', rate(world.received, 1)])
  rows.push(['      kbit/s out, p50 max', rate(world.sentBytes, 8 / 1000)])
  rows.push(['             in', rate(world.receivedBytes, 8 / 1000)])
  for (const [purpose, name] of [
    ['pulses', 'pulses and answers'],
    ['beacons', 'beacons in gossip'],
    ['told', 'gossip of what was gossiped'],
    ['syncs', 'syncs'],
    ['keys', 'new keys'],
  ] as const) {
    rows.push([`        ${name}`, ((world.spent[purpose] * 8) / IDLE / aps).toFixed(1)])
  }
  rows.push(['      suspicions, statements', `${figures.falseSuspicions}, ${figures.statements}`])

  for (const isHandover of [false, true]) {
    const { restarts, moved } = rollingRestart(world, figures, isHandover)
    rows.push([
      `${isHandover ? 'restart with handover' : `restart of ${DOWN / 1000} s`}: taken for death`,
      `${moved} of ${restarts}`,
    ])
  }

  world.runUntil(world.now + SETTLE)
  const crashed = members.ids.map((_, ap) => ap).filter((ap) => (ap * 7919 + 13) % Math.round(1 / CRASHED) === 0)
  for (const ap of crashed) world.cutPower(ap)
  world.runUntil(world.now + AFTER_CRASH)
  rows.push([`${100 * CRASHED} % crash`, `${crashed.length}`], ...detected(figures, world, crashed))

  world.runUntil(world.now + SETTLE)
  const site = members.ids.map((_, ap) => ap).filter((ap) => ap < siteSize && world.isUp[ap] === 1)
  for (const ap of site) world.cutPower(ap)
  world.runUntil(world.now + AFTER_SITE)
  rows.push(['a site lost', `${site.length}`], ...detected(figures, world, site))

  const seconds = (performance.now() - began) / 1000
  const cpu = process.cpuUsage(cpuBefore)
  const busy = (cpu.user + cpu.system) / 1e6
  rows.push(['false deaths', `${figures.falseDeaths.length}`])
  rows.push(
    ['simulated, s', (world.now / 1000).toFixed(0)],
    ['took, s (of CPU)', `${seconds.toFixed(1)} (${busy.toFixed(1)})`],
  )
  rows.push(['million events a second of CPU', (world.queue.events / busy / 1e6).toFixed(2)])
  return { rows, figures }
}

/** In each round one AP of each neighbourhood restarts. */
function rollingRestart(world: World, figures: Figures, isHandover: boolean): { restarts: number; moved: number } {
  figures.moved.clear()
  const restarted = new Set<number>()
  for (let round = 0; round < ROUNDS; round++) {
    const aps = world.members.homes.map((home) => home[(round * 2 + Number(isHandover)) % home.length]!)
    for (const ap of aps) restarted.add(ap)
    if (isHandover) {
      for (const ap of aps) world.sayAway(ap, AWAY)
      world.runUntil(world.now + WORD_PATIENCE)
    }
    for (const ap of aps) world.endProcess(ap)
    world.runUntil(world.now + DOWN)
    for (const ap of aps) world.start(ap)
    world.runUntil(world.now + EACH_ROUND)
  }
  // Some hear of it while the AP is down, and some only once it is back.
  const moved = [...restarted].filter((ap) => figures.moved.has(ap) || figures.deaths.has(ap)).length
  figures.deaths.clear()
  return { restarts: restarted.size, moved }
}

function detected(figures: Figures, world: World, died: readonly number[]): [string, string][] {
  const { members } = world
  const times = (values: number[]) => {
    const known = values.filter((value) => value < Number.POSITIVE_INFINITY)
    const unknown = values.length === known.length ? '' : `  (${values.length - known.length} of ${values.length} not)`
    return `${[0.5, 0.99, 1].map((share) => (quantile(known, share) / 1000).toFixed(2)).join('  ')}${unknown}`
  }
  const watchers = (ap: number) => members.watchers[ap]!
  const everyone = (ap: number) => [...new Set([...members.homes[members.homeOf[ap]!]!, ...watchers(ap)])]
  const living = members.ids.map((_, ap) => ap).filter((ap) => world.isUp[ap] === 1)
  const braked = living.filter((ap) => world.detectors[ap]!.isBraked(world.now)).length
  return [
    ['  watchers know after s, p50 p99 max', times(figures.detection(died, watchers))],
    ['  the last of a neighbourhood', times(figures.lastToKnow(died, everyone))],
    ['  APs that hold back (brake)', `${braked}`],
  ]
}

const range = (numbers: readonly number[]): string => `${Math.min(...numbers)}–${Math.max(...numbers)}`

function main(): void {
  const line = new CommandLine(USAGE)
  const args = line.read({
    ...COMMON,
    aps: { type: 'string', default: '50,500,5000,10000' },
    instances: { type: 'string', default: '4' },
  })
  const sizes = args.aps.split(',').map(Number)
  if (!sizes.every((aps) => aps >= 2 && aps <= 20_000)) line.stop('--aps takes 2 to 20000')
  const conditions = line.conditions(args)
  const { loss, latency, jitter } = conditions
  console.log(
    `${100 * loss} % loss, ${latency} ± ${jitter} ms one way, ${args.instances} instances an AP, seed ${args.seed}\n`,
  )
  let failed = false
  for (const aps of sizes) {
    const { rows, figures } = playMesh({
      ...{ aps, conditions, instances: Number(args.instances), seed: args.seed },
    })
    console.log(`${aps} APs`)
    for (const [name, value] of rows) console.log(`  ${name.padEnd(40)}${value}`)
    for (const story of figures.stories) console.log(`\n  ${story}`)
    console.log()
    failed ||= figures.falseDeaths.length > 0
  }
  process.exitCode = failed ? 1 : 0
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main()
