#!/usr/bin/env node
// Runs every test file of the built tree, each as a process of its own, two at a time: most of them mostly wait. Of those
// that simulate hosts, and of those with several APs on one engine, one follows the other. Its last line is
// `N passed, N failed, N skipped`.
//
//   node .ci/test.mjs             all of them
//   node .ci/test.mjs PATTERN …   those whose path (test/node/ap.test.ts) matches one of the regular expressions
//
// DROPMESH_TEST_DEADLINE: seconds a file may take, 300 where not set.

import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { stripVTControlCharacters } from 'node:util'
import { engineRequest, explain, root, setup } from './setup.mjs'

const deadlineMs = Number(process.env.DROPMESH_TEST_DEADLINE || 300) * 1_000

/** Begins the mark in the environment of everything a test starts, so that what outlives it is found, wherever it went. */
const run = `${process.pid}-${randomBytes(6).toString('hex')}`

// ---- what to run ----------------------------------------------------------------------------------------------------

/** dist/test/a.test.js and test/a.test.ts are one test; its name is the one a person edits. */
const sourceName = (file) =>
  file
    .replace(/^\.?\//, '')
    .replace(/^dist\//, '')
    .replace(/\.js$/, '.ts')

function findTests(patterns) {
  const folder = path.join(root, 'dist/test')
  if (!fs.existsSync(folder)) return []
  const files = fs.readdirSync(folder, { recursive: true }).filter((file) => file.endsWith('.test.js'))
  const matchers = patterns.map((pattern) => new RegExp(sourceName(pattern)))
  return files
    .map((file) => ({ name: sourceName(`test/${file}`), file: path.join(folder, file) }))
    .filter(({ name }) => matchers.length === 0 || matchers.some((matcher) => matcher.test(name)))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
}

// ---- one test file --------------------------------------------------------------------------------------------------

/** The process groups of the test files that run now. */
const running = new Set()

function killGroup(pid) {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {} // nobody left in it
}

/** Kills whatever still carries a mark that begins so: a process that made a session of its own is in no group of ours. */
function killMarked(mark) {
  let entries = []
  try {
    entries = fs.readdirSync('/proc')
  } catch {} // not Linux
  for (const pid of entries.filter((entry) => /^\d+$/.test(entry))) {
    try {
      const environment = fs.readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0')
      if (environment.some((entry) => entry.startsWith(`DROPMESH_TEST_RUN=${mark}`))) process.kill(+pid, 'SIGKILL')
    } catch {} // ended meanwhile, or another user's
  }
}

/** Runs one file, and prints its output when it ends: that of the other lane must not come between. */
function runFile({ name, file }) {
  const mark = `${run}/${name}/`
  const started = Date.now()
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['--enable-source-maps', file], {
      cwd: root,
      detached: true, // a group of its own, to be killed as one
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, DROPMESH_TEST_RUN: mark },
    })
    running.add(child.pid)
    const output = []
    let why
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => output.push(chunk))
    const timer = setTimeout(() => {
      why = `did not end within ${deadlineMs / 1_000} s`
      killGroup(child.pid)
    }, deadlineMs)
    child.on('error', (error) => {
      why = error.message
    })
    child.on('exit', (code, signal) => {
      clearTimeout(timer)
      if (code !== 0) why ??= signal ? `was killed by ${signal}` : `exited with ${code}`
      // Now rather than at the end: a grandchild that holds the pipe open would delay 'close' for ever.
      if (child.pid !== undefined) killGroup(child.pid)
      killMarked(mark)
    })
    child.on('close', () => {
      clearTimeout(timer)
      running.delete(child.pid)
      const seconds = (Date.now() - started) / 1_000
      const said = Buffer.concat(output).toString()
      const result = { name, why, ...tally(said) }
      // uvu is silent about both and exits with 0: a suite whose `before` throws, and a suite that is never `.run()`.
      if (result.failed > 0) result.why ??= `${result.failed} tests did not run; does a before hook throw?`
      if (result.passed + result.failed + result.skipped === 0) result.why ??= 'ran no test'
      if (result.why && result.failed === 0) result.failed = 1
      const end = `   ${seconds.toFixed(1)} s${result.why ? `, FAILED: ${result.why}` : ''}`
      process.stdout.write(`\n── ${name}\n${said.trimEnd()}\n${end}\n`)
      resolve(result)
    })
  })
}

/** What uvu counted, from the end of its output. */
function tally(output) {
  const pattern = /Total:\s+(\d+)\s+Passed:\s+(\d+)\s+Skipped:\s+(\d+)/g
  const last = [...stripVTControlCharacters(output).matchAll(pattern)].at(-1)
  if (!last) return { passed: 0, failed: 0, skipped: 0 }
  const [total, passed, skipped] = last.slice(1).map(Number)
  return { passed, failed: total - passed, skipped }
}

// ---- what tests leave behind ----------------------------------------------------------------------------------------

const kinds = {
  container: {
    list: '/containers/json?all=1',
    items: (body) => body,
    id: (item) => item.Id,
    created: (item) => item.Created * 1_000,
    remove: (id) => `/containers/${id}?force=1&v=1`,
  },
  network: {
    list: '/networks',
    items: (body) => body,
    id: (item) => item.Id,
    created: (item) => Date.parse(item.Created),
    remove: (id) => `/networks/${id}`,
  },
  volume: {
    list: '/volumes',
    items: (body) => body.Volumes ?? [],
    id: (item) => item.Name,
    created: (item) => Date.parse(item.CreatedAt),
    remove: (id) => `/volumes/${id}?force=1`,
  },
}

/** Everything in the engine with one of our labels, containers first: they hold the others in use. */
async function labelled() {
  const found = []
  for (const [kind, api] of Object.entries(kinds)) {
    const { status, body } = await engineRequest('GET', api.list, 30_000)
    if (status !== 200) throw new Error(`the Docker engine answered ${status} to ${api.list}`)
    for (const item of api.items(body)) {
      const labels = item.Labels ?? {}
      if (!('dropmesh.test' in labels) && !('dropmesh.mesh' in labels)) continue
      found.push({ kind, id: api.id(item), created: api.created(item), mesh: labels['dropmesh.mesh'] })
    }
  }
  return found
}

/** Removes what this run's tests left in the engine. A mesh that had something here before the run is a person's: its
 *  things stay, also those that are new. */
async function removeLabelled(since, meshesBefore) {
  // Docker keeps whole seconds for some of these.
  const left = (await labelled()).filter(
    ({ created, mesh }) => created >= Math.floor(since / 1_000) * 1_000 && !meshesBefore.has(mesh),
  )
  for (const { kind, id } of left) {
    const { status, body } = await engineRequest('DELETE', kinds[kind].remove(id), 30_000)
    const failed = status >= 400 && status !== 404
    process.stderr.write(
      `test: a ${kind} was left over: ${id} (${failed ? `cannot be removed: ${body.message}` : 'removed'})\n`,
    )
  }
}

/** Network namespaces, engines and folders of simulated hosts whose test was killed. */
async function removeHosts() {
  const file = path.join(root, 'dist/test/support/hosts.js')
  if (!fs.existsSync(file)) return
  const { removeLeftovers } = await import(pathToFileURL(file).href)
  for (const run of removeLeftovers()) process.stderr.write(`test: hosts were left over: ${run} (removed)\n`)
}

const iptables = (args) => spawnSync('iptables', ['-w', '-t', 'mangle', ...args], { encoding: 'utf8' }).stdout ?? ''

/** Chains by which nodes mark what they send. One that a test kills while it sends leaves its own. */
const markingChains = () => [...iptables(['-S']).matchAll(/^-N (DROPMESH-LE-\S+)/gm)].map(([, name]) => name)

function removeChains(before) {
  for (const name of markingChains().filter((name) => !before.includes(name))) {
    iptables(['-D', 'OUTPUT', '-p', 'tcp', '-j', name])
    iptables(['-F', name])
    iptables(['-X', name])
  }
}

// ---- the run --------------------------------------------------------------------------------------------------------

/** To be undone after the run, the last first. */
const undo = []
let cleaning

function cleanUp() {
  cleaning ??= (async () => {
    for (const pid of running) killGroup(pid)
    killMarked(run)
    for (const step of undo.reverse()) {
      try {
        await step()
      } catch (error) {
        process.stderr.write(`test: cleaning up failed: ${error.message}\n`)
      }
    }
  })()
  return cleaning
}

for (const [signal, number] of [
  ['SIGINT', 2],
  ['SIGTERM', 15],
  ['SIGHUP', 1],
]) {
  process.on(signal, async () => {
    process.stderr.write(`test: stopped by ${signal}\n`)
    await cleanUp()
    process.exit(128 + number)
  })
}

async function main(patterns) {
  await setup((engine) => undo.push(() => engine.stop()))
  const since = Date.now()
  const meshesBefore = new Set((await labelled()).map(({ mesh }) => mesh))
  meshesBefore.delete(undefined)
  const chainsBefore = markingChains()
  undo.push(
    () => removeLabelled(since, meshesBefore),
    removeHosts,
    () => removeChains(chainsBefore),
  )

  const tests = findTests(patterns)
  const isOnOneEngine = ({ name }) => /^test\/(mesh|node)\//.test(name)
  const [one, other] = [tests.filter(isOnOneEngine), tests.filter((test) => !isOnOneEngine(test))]
  return (await Promise.all([runLane(one, other), runLane(other, one)])).flat()
}

/** Runs its own tests, then helps with the last ones of the other lane. */
async function runLane(own, other) {
  const results = []
  while (!cleaning) {
    const test = own.shift() ?? other.pop()
    if (test === undefined) break
    results.push(await runFile(test))
  }
  return results
}

const results = []
let broken = false
try {
  results.push(...(await main(process.argv.slice(2))))
} catch (error) {
  explain(error)
  broken = true
}
await cleanUp()

const sum = (key) => results.reduce((total, result) => total + result[key], 0)
const failures = results.filter(({ why }) => why)
if (results.length === 0 && !broken) {
  process.stdout.write('\nno test file matches\n')
  broken = true
}
if (failures.length > 0) process.stdout.write(`\nFailed:\n${failures.map((f) => `  ${f.name}: ${f.why}\n`).join('')}`)
process.exitCode = broken || failures.length > 0 ? 1 : 0
process.stdout.write(
  `\n${sum('passed')} passed, ${sum('failed') + (broken ? 1 : 0)} failed, ${sum('skipped')} skipped\n`,
)
