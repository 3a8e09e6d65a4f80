// `npm run sim`: simulates meshes, one a seed, and says which of them broke a promise. README.md says how it works.
import { fork } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { MUTATIONS } from './mutations.js'
import { type Options, run } from './run.js'
import { generate, type Scenario } from './scenario.js'
import { shrink } from './shrink.js'

const USAGE = `npm run sim -- [options]
  --seeds N       simulate N meshes (100)
  --first N       the first of their seeds (1)
  --aps N         APs in each mesh at its beginning (30)
  --seed S        simulate this one alone
  --trace FILE    write there what happened in it; with --seed
  --mutate PART   break a part first: ${Object.keys(MUTATIONS).join(', ')}
  --shrink SEC    spend so long on making a scenario shorter that breaks a promise (120)`

/** Of what a run makes most is garbage soon, and the less often that is looked through, the less is copied. In MB. */
const ROOM_FOR_THE_YOUNG = '--max-semi-space-size=64'

const { values: args } = readArgs()
const aps = Number(args.aps)
const seeds = args.seed === undefined ? range(Number(args.first), Number(args.seeds)) : [args.seed]
if (args.mutate !== undefined && !Object.hasOwn(MUTATIONS, args.mutate))
  stop(`there is no part "${args.mutate}" to break`)
if (!(aps >= 2 && aps <= 100)) stop('--aps takes 2 to 100')
const options: Options = { mutation: args.mutate === undefined ? undefined : MUTATIONS[args.mutate] }

if (args.worker) await work()
else process.exitCode = (await direct()) ? 0 : 1

/** What a process tells of one run. */
interface Report {
  readonly seed: string
  readonly violation: string | undefined
  readonly line: string
}

/** Simulates seeds that come from the parent, one at a time. */
async function work(): Promise<void> {
  process.on('message', async (seed: string) => process.send!(await simulate(seed)))
  await new Promise((resolve) => process.once('disconnect', resolve))
}

async function simulate(seed: string): Promise<Report> {
  const began = performance.now()
  const { violation, counts, steps, digest } = await run(generate(seed, aps), options)
  const told = `${steps} steps, ${Object.entries(counts)
    .map(([name, n]) => `${n} ${name}`)
    .join(', ')}`
  const line = `seed ${seed}: ${told}, ledger ${digest.slice(0, 8)}, ${((performance.now() - began) / 1000).toFixed(1)} s`
  return { seed, violation: violation && `${violation.promise}: ${violation.what}`, line }
}

/** Hands the seeds out to a process a core. Returns true where no promise was broken. */
async function direct(): Promise<boolean> {
  const began = performance.now()
  let broken: Report | undefined
  let done = 0
  const take = (report: Report) => {
    done++
    if (seeds.length === 1 || process.stdout.isTTY) console.log(report.line)
    else if (done % 25 === 0) console.log(`${done} of ${seeds.length} seeds, ${seconds(began)} s`)
    if (report.violation !== undefined) broken ??= report
  }
  const left = [...seeds]
  if (seeds.length === 1) take(await simulate(left.pop()!))
  else {
    const processes = Math.min(availableParallelism(), seeds.length)
    await Promise.all(Array.from({ length: processes }, () => employ(left, take, () => broken !== undefined)))
  }
  if (broken === undefined && args.trace !== undefined) await writeTrace(generate(seeds[0]!, aps), args.trace)
  console.log(
    `${done} meshes of ${aps} APs in ${seconds(began)} s: ${broken ? 'a promise was broken' : 'all promises kept'}`,
  )
  if (broken !== undefined) await explain(broken)
  return broken === undefined
}

function employ(left: string[], take: (report: Report) => void, isOver: () => boolean): Promise<void> {
  const worker = fork(fileURLToPath(import.meta.url), [...process.argv.slice(2), '--worker'], {
    execArgv: [...process.execArgv, ROOM_FOR_THE_YOUNG],
  })
  return new Promise((resolve, reject) => {
    const next = () => {
      const seed = isOver() ? undefined : left.shift()
      if (seed !== undefined) return worker.send(seed)
      worker.disconnect()
      resolve()
      return true
    }
    worker.on('message', (report: Report) => {
      take(report)
      next()
    })
    worker.on('error', reject)
    worker.on('exit', (code) => code !== 0 && reject(new Error(`a simulating process ended with ${code}`)))
    next()
  })
}

/** Says what was broken and how to see it again, shortens the scenario, and writes its trace. */
async function explain({ seed, violation }: Report): Promise<void> {
  const mutate = args.mutate === undefined ? '' : ` --mutate ${args.mutate}`
  console.log(`\nseed ${seed}: ${violation}\nto see it again: npm run sim -- --seed ${seed} --aps ${aps}${mutate}`)
  const promise = violation!.split(':')[0]!
  const breaks = async (scenario: Scenario) => (await run(scenario, options)).violation?.promise === promise
  const whole = generate(seed, aps)
  const short = await shrink(whole, breaks, performance.now() + 1000 * Number(args.shrink))
  console.log(`${short.actions.length} of ${whole.actions.length} actions are enough:`)
  for (const action of short.actions) console.log(`  ${JSON.stringify(action)}`)
  const file = args.trace ?? join(mkdtempSync(join(tmpdir(), 'dropmesh-sim-')), `seed-${seed}.txt`)
  await writeTrace(short, file)
  console.log(`what happened: ${file}`)
}

async function writeTrace(scenario: Scenario, file: string): Promise<void> {
  const { trace } = await run(scenario, { ...options, trace: true })
  writeFileSync(file, `${trace.join('\n')}\n`)
}

function readArgs() {
  try {
    return parseArgs({
      options: {
        seeds: { type: 'string', default: '100' },
        first: { type: 'string', default: '1' },
        aps: { type: 'string', default: '30' },
        seed: { type: 'string' },
        trace: { type: 'string' },
        mutate: { type: 'string' },
        shrink: { type: 'string', default: '120' },
        worker: { type: 'boolean', default: false },
      },
    })
  } catch (error) {
    return stop((error as Error).message)
  }
}

function stop(why: string): never {
  console.error(`${why}\n\n${USAGE}`)
  process.exit(2)
}

function range(first: number, count: number): string[] {
  if (!(count > 0) || !Number.isInteger(first)) stop('--seeds and --first take whole numbers')
  return Array.from({ length: count }, (_, i) => String(first + i))
}

function seconds(since: number): string {
  return ((performance.now() - since) / 1000).toFixed(0)
}
