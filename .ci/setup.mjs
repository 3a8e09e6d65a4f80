#!/usr/bin/env node
// Makes a fresh clone ready to run: dependencies, a build, and a Docker engine that answers. Plain Node without
// dependencies, because it runs before there are any. Everything it says goes to stderr, since `npm run demo` and the
// tests own stdout.
//
//   node .ci/setup.mjs                   everything below but tools
//   node .ci/setup.mjs install|build|engine
//   node .ci/setup.mjs tools ip nft …    commands that the tests need from the system
//   node .ci/setup.mjs newer-engine      an engine that can keep images in containerd's store; prints the folder it is in

import { spawn, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)))

/** A failure that a person can do something about: its message is the whole story, a stack would only hide it. */
class SetupError extends Error {}

const say = (line) => process.stderr.write(`setup: ${line}\n`)

// ---- dependencies ---------------------------------------------------------------------------------------------------

/** Whether node_modules is what package-lock.json asks for. npm leaves a lock file of what it installed inside
 *  node_modules; times prove nothing (a clone or a checkout changes them), so packages are compared one by one. Optional
 *  packages are those built for one platform: a lock file made on another may lack or have them. */
function dependenciesAreCurrent() {
  const read = (file) => JSON.parse(fs.readFileSync(path.join(root, file), 'utf8')).packages
  const wanted = read('package-lock.json')
  delete wanted[''] // the project itself
  let installed
  try {
    installed = read('node_modules/.package-lock.json')
  } catch {
    return false
  }
  for (const [where, pkg] of Object.entries(wanted)) {
    const have = installed[where]
    if (!have && pkg.optional) continue
    if (have?.version !== pkg.version || have.integrity !== pkg.integrity) return false
    if (!fs.existsSync(path.join(root, where, 'package.json'))) return false
  }
  return Object.entries(installed).every(([where, pkg]) => where in wanted || pkg.optional)
}

function install() {
  if (dependenciesAreCurrent()) return
  say('installing dependencies (npm install, as package-lock.json says)')
  // Not `npm ci`: it refuses a lock file that lacks the optional packages of some platform, and npm writes such a file
  // where a registry did not have them yet. The comparison afterwards is as strict as `npm ci` on everything else.
  const args = [
    'install',
    '--no-save',
    '--include=dev',
    '--include=optional',
    '--loglevel=error',
    '--no-audit',
    '--no-fund',
  ]
  const { status, error } = spawnSync('npm', args, { cwd: root, stdio: ['ignore', 2, 2] })
  if (status !== 0) throw new SetupError(`npm install failed${error ? `: ${error.message}` : ''}; see above`)
  if (dependenciesAreCurrent()) return
  throw new SetupError('package-lock.json does not fit package.json: run npm install and commit the lock file')
}

// ---- build ----------------------------------------------------------------------------------------------------------

/** tsc never deletes what it wrote for a source that is gone, and a stale test file would still be run. Deleting just
 *  those, rather than all of dist, leaves alone a node or a test that runs from dist right now. */
function deleteStaleOutputs() {
  const dist = path.join(root, 'dist')
  if (!fs.existsSync(dist)) return
  for (const entry of fs.readdirSync(dist, { recursive: true })) {
    const output = /^(.*)\.([cm]?)js(\.map)?$/.exec(entry)
    if (!output || entry.startsWith(`bin${path.sep}`)) continue
    const [, stem, flavour] = output
    const sources = [`${stem}.${flavour}ts`, `${stem}.${flavour}tsx`]
    if (!sources.some((source) => fs.existsSync(path.join(root, source)))) fs.rmSync(path.join(dist, entry))
  }
}

async function build() {
  deleteStaleOutputs()
  const tsc = path.join(root, 'node_modules/.bin/tsc')
  const { status, error } = spawnSync(tsc, ['-p', 'tsconfig.json'], { cwd: root, stdio: ['ignore', 2, 2] })
  if (status !== 0) throw new SetupError(`the build failed${error ? `: ${error.message}` : ''}; see above`)
  // Loaded only now: it is a dependency.
  const { bundle } = await import('./bundle.mjs')
  await bundle(root)
}

// ---- system tools ---------------------------------------------------------------------------------------------------

/** Which Debian package has a command. */
const packages = {
  'docker-registry': 'docker-registry',
  dockerd: 'docker.io',
  git: 'git',
  iptables: 'iptables',
  ip: 'iproute2',
  nft: 'nftables',
  nsenter: 'util-linux',
  openssl: 'openssl',
  podman: 'podman',
  script: 'bsdutils',
  serf: 'serf',
  skopeo: 'skopeo',
  'ssh-add': 'openssh-client',
  'ssh-agent': 'openssh-client',
  'ssh-keygen': 'openssh-client',
  unshare: 'util-linux',
}

// A root shell opened with plain `su` has no sbin in its PATH, yet that is where these commands live.
const searchPath = `${process.env.PATH ?? ''}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`

function find(command) {
  for (const folder of searchPath.split(':').filter(Boolean)) {
    const file = path.join(folder, command)
    try {
      fs.accessSync(file, fs.constants.X_OK)
      return file
    } catch {}
  }
}

const isRoot = () => process.getuid?.() === 0

/** Installs the Debian packages of those commands that are missing; throws where it may not or cannot. */
function tools(commands) {
  const unknown = commands.filter((command) => !(command in packages))
  if (unknown.length) throw new SetupError(`no package is known for ${unknown.join(', ')}`)
  const missing = commands.filter((command) => !find(command))
  if (missing.length === 0) return
  const wanted = [...new Set(missing.map((command) => packages[command]))]
  const what = `${missing.join(' and ')} ${missing.length > 1 ? 'are' : 'is'} missing`
  if (!isRoot() || !fs.existsSync('/etc/debian_version')) {
    throw new SetupError(`${what}: install ${wanted.join(' and ')} (on Debian: apt-get install ${wanted.join(' ')})`)
  }
  say(`${what}: installing ${wanted.join(' and ')} with apt-get`)
  const aptGet = (...args) =>
    spawnSync('apt-get', ['-o', 'DPkg::Lock::Timeout=300', '-q', ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      encoding: 'utf8',
      maxBuffer: 1 << 26,
      env: { ...process.env, PATH: searchPath, DEBIAN_FRONTEND: 'noninteractive' },
    })
  const installWanted = () => aptGet('install', '-y', '--no-install-recommends', ...wanted)
  let result = installWanted()
  if (result.status !== 0) {
    // Most often the package lists were never fetched, or are so old that what they name is gone.
    const update = aptGet('update')
    result = installWanted()
    if (result.status !== 0) {
      process.stderr.write(lastLines(`${update.stderr}\n${result.stdout}\n${result.stderr}`, 15))
      throw new SetupError(`apt-get install ${wanted.join(' ')} failed; see above`)
    }
  }
  const still = missing.filter((command) => !find(command))
  if (still.length) throw new SetupError(`${wanted.join(' ')} installed, yet ${still.join(', ')} cannot be found`)
}

/** The first major version of the engine that has containerd's image store for good, and a release of Debian that has it. */
const newer = { major: 24, release: 'trixie' }

/** The folder of dockerd and containerd in that version: the system's own, or those of the release, unpacked beside them. */
function newerEngine() {
  tools(['dockerd', 'iptables'])
  const system = find('dockerd')
  if (Number(/version (\d+)/.exec(run(system, ['--version']))?.[1]) >= newer.major) return path.dirname(system)
  const folder = `/var/cache/dropmesh-test/engine-${newer.release}`
  if (fs.existsSync(folder)) return folder
  if (!isRoot()) throw new SetupError(`${system} is older than ${newer.major}, and only root can fetch a newer one`)
  say(`fetching an engine of ${newer.release} into ${folder}`)
  const own = /^VERSION_CODENAME=(\w+)/m.exec(fs.readFileSync('/etc/os-release', 'utf8'))?.[1]
  const targets = run('apt-get', [
    'indextargets',
    '--format',
    '$(RELEASE) $(COMPONENT) $(REPO_URI)',
    'Created-By: Packages',
  ])
  const mirror = targets
    .split('\n')
    .find((line) => line.startsWith(`${own} main `))
    ?.split(' ')[2]
  if (mirror === undefined) throw new SetupError(`apt-get knows no mirror of ${own}`)
  fs.mkdirSync(path.dirname(folder), { recursive: true })
  const scratch = fs.mkdtempSync(`${folder}-`)
  try {
    // Lists of their own: nothing else on this machine is to come from that release.
    const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg'
    fs.writeFileSync(path.join(scratch, 'sources.list'), `deb [signed-by=${keyring}] ${mirror} ${newer.release} main\n`)
    fs.writeFileSync(path.join(scratch, 'status'), '')
    const options = {
      'APT::Sandbox::User': 'root',
      'Dir::Cache': scratch,
      'Dir::Etc::sourcelist': path.join(scratch, 'sources.list'),
      'Dir::Etc::sourceparts': '-',
      'Dir::State': scratch,
      'Dir::State::status': path.join(scratch, 'status'),
    }
    const aptGet = (...args) =>
      run(
        'apt-get',
        ['-q', ...Object.entries(options).flatMap(([key, value]) => ['-o', `${key}=${value}`]), ...args],
        scratch,
      )
    aptGet('update')
    aptGet('download', 'docker.io', 'containerd')
    for (const file of fs.readdirSync(scratch).filter((file) => file.endsWith('.deb')))
      run('dpkg-deb', ['-x', file, 'unpacked'], scratch)
    const programs = path.join(scratch, 'programs')
    fs.mkdirSync(programs)
    const wanted = ['usr/sbin/dockerd', 'usr/bin/containerd', 'usr/bin/containerd-shim-runc-v2']
    for (const file of wanted)
      fs.renameSync(path.join(scratch, 'unpacked', file), path.join(programs, path.basename(file)))
    fs.renameSync(programs, folder)
  } finally {
    fs.rmSync(scratch, { recursive: true, force: true })
  }
  return folder
}

/** What a command prints; throws, showing what it said, where it fails. */
function run(command, args, cwd = '/') {
  const { status, error, stdout, stderr } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    env: { ...process.env, PATH: searchPath, LC_ALL: 'C' },
  })
  if (status === 0) return stdout
  process.stderr.write(lastLines(`${stdout}\n${stderr}`, 15))
  throw new SetupError(`${command} failed${error ? `: ${error.message}` : ''}; see above`)
}

function lastLines(text, count) {
  const lines = text.split('\n').filter((line) => line.trim())
  return lines
    .slice(-count)
    .map((line) => `  ${line}\n`)
    .join('')
}

// ---- Docker engine --------------------------------------------------------------------------------------------------

const defaultSocket = '/var/run/docker.sock'
const pidFile = '/var/run/docker.pid'
const containerdPidFile = '/var/run/docker/containerd/containerd.pid'

/** Where the engine is, as the Docker CLI reads it from the environment. */
function engineAddress() {
  const host = process.env.DOCKER_HOST
  if (!host)
    return { name: defaultSocket, isDefault: true, request: http.request, options: { socketPath: defaultSocket } }
  const url = /^(unix|tcp|https?):\/\/(.+)$/.exec(host)
  if (!url) throw new SetupError(`DOCKER_HOST is ${host}: only unix:// and tcp:// addresses can be used here`)
  if (url[1] === 'unix') {
    const isDefault = [defaultSocket, '/run/docker.sock'].includes(url[2])
    return { name: host, isDefault, request: http.request, options: { socketPath: url[2] } }
  }
  const secure = url[1] === 'https' || !!process.env.DOCKER_TLS_VERIFY
  const { hostname, port } = new URL(`http://${url[2]}`)
  const options = { hostname, port: Number(port) || (secure ? 2376 : 2375) }
  const certificates = process.env.DOCKER_CERT_PATH ?? path.join(process.env.HOME ?? '/', '.docker')
  if (secure) {
    for (const key of ['ca', 'cert', 'key']) {
      const file = path.join(certificates, `${key}.pem`)
      if (fs.existsSync(file)) options[key] = fs.readFileSync(file)
    }
  }
  return { name: host, isDefault: false, request: secure ? https.request : http.request, options }
}

/** One request to the engine's API, body parsed where it is JSON. An engine that hangs rejects with code ETIMEDOUT. */
export function engineRequest(method, requestPath, timeoutMs = 10_000) {
  const { request, options } = engineAddress()
  return new Promise((resolve, reject) => {
    const outgoing = request({ ...options, method, path: requestPath, agent: false }, (response) => {
      const chunks = []
      response.on('data', (chunk) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString('utf8')
        let body = text
        try {
          body = JSON.parse(text)
        } catch {}
        resolve({ status: response.statusCode, body })
      })
    })
    // A deadline over the whole exchange: a socket's idle timeout would let a trickle go on for ever.
    const timer = setTimeout(() => {
      outgoing.destroy(Object.assign(new Error(`no answer within ${timeoutMs} ms`), { code: 'ETIMEDOUT' }))
    }, timeoutMs)
    outgoing.on('close', () => clearTimeout(timer))
    outgoing.on('error', reject)
    outgoing.end()
  })
}

/** 'answers', or the reason why not as an error code (ENOENT, ECONNREFUSED, EACCES, ETIMEDOUT, HTTP 500 …). */
async function probeEngine(timeoutMs) {
  try {
    const { status } = await engineRequest('GET', '/_ping', timeoutMs)
    return status === 200 ? 'answers' : `HTTP ${status}`
  } catch (error) {
    return error.code ?? error.message
  }
}

/** The process that a pid file names, if it is alive (a zombie is not) and still the program that wrote the file. */
function aliveFromPidFile(file, program) {
  try {
    const pid = Number(fs.readFileSync(file, 'utf8'))
    const status = fs.readFileSync(`/proc/${pid}/status`, 'utf8')
    if (/^State:\s+[^ZX]/m.test(status) && /^Name:\s+(\S+)/m.exec(status)?.[1] === program) return pid
  } catch {}
}

/** Makes sure that an engine answers. Where it starts one, `onStart` gets its pid and how to stop it, at once: the caller
 *  can then stop it also when interrupted before it answers. */
async function engine(onStart) {
  const { name, isDefault } = engineAddress()
  let state = await probeEngine(5_000)
  if (state === 'answers') return
  if (state === 'EACCES') {
    throw new SetupError(`no permission for the Docker engine at ${name}: run as root or as a member of its group`)
  }
  let running = isDefault && aliveFromPidFile(pidFile, 'dockerd')
  if (running || state === 'ETIMEDOUT' || state.startsWith('HTTP')) {
    say(`waiting for the Docker engine at ${name}`) // it may be starting up just now
    state = await waitForEngine(Date.now() + 30_000, () => false)
    if (state === 'answers') return
    throw new SetupError(
      `a Docker engine ${running ? `(dockerd, pid ${running}) ` : ''}runs but does not answer at ${name} (${state}): restart it`,
    )
  }
  if (!isDefault) {
    throw new SetupError(`no Docker engine answers at DOCKER_HOST ${name} (${state}): start it, or unset DOCKER_HOST`)
  }
  if (!isRoot() || !fs.existsSync('/etc/debian_version')) {
    const cure = find('dockerd') ? 'start dockerd as root' : 'install Docker Engine and start it'
    throw new SetupError(`no Docker engine answers at ${name} (${state}): ${cure}, or set DOCKER_HOST to where one is`)
  }
  tools(['dockerd', 'iptables'])
  if (fs.existsSync('/run/systemd/system')) {
    // Here the engine is a service that the package enabled: it belongs to the system, and stays.
    say('starting the Docker engine (systemctl start docker)')
    spawnSync('systemctl', ['start', 'docker'], { stdio: ['ignore', 2, 2] })
  }
  running = aliveFromPidFile(pidFile, 'dockerd')
  if (running || fs.existsSync('/run/systemd/system')) {
    state = await waitForEngine(Date.now() + 60_000, () => false)
    if (state === 'answers') return
    throw new SetupError(`the Docker engine was started but does not answer at ${name} (${state})`)
  }
  await startEngine(onStart)
}

async function waitForEngine(deadline, isHopeless) {
  for (;;) {
    const state = await probeEngine(Math.max(1_000, Math.min(5_000, deadline - Date.now())))
    if (state === 'answers' || isHopeless() || Date.now() >= deadline) return state
    await sleep(200)
  }
}

async function startEngine(onStart) {
  // A pid file left by a crash keeps dockerd from starting as soon as any other process got that number.
  for (const [file, program] of [
    [pidFile, 'dockerd'],
    [containerdPidFile, 'containerd'],
  ]) {
    if (!aliveFromPidFile(file, program)) fs.rmSync(file, { force: true })
  }
  const logFile = path.join(fs.existsSync('/var/log') ? '/var/log' : '/tmp', 'dropmesh-dockerd.log')
  const log = fs.openSync(logFile, 'w')
  // A session of its own: an interrupt from the terminal is for the tests, which stop the engine when they are through.
  const dockerd = spawn(find('dockerd'), [], {
    cwd: '/',
    detached: true,
    stdio: ['ignore', log, log],
    env: { ...process.env, PATH: searchPath },
  })
  fs.closeSync(log)
  dockerd.unref()
  let failure
  dockerd.on('error', (error) => {
    failure = error.message
  })
  dockerd.on('exit', (code, signal) => {
    failure ??= `it exited with ${signal ?? code}`
  })
  say(`starting a Docker engine (dockerd, log in ${logFile})`)
  onStart({ pid: dockerd.pid, stop })
  const state = await waitForEngine(Date.now() + 60_000, () => failure !== undefined)
  if (state !== 'answers') {
    await stop()
    process.stderr.write(lastLines(fs.readFileSync(logFile, 'utf8'), 15))
    throw new SetupError(
      `the Docker engine did not start: ${failure ?? `no answer within 60 s (${state})`}; log in ${logFile}`,
    )
  }

  async function stop() {
    if (dockerd.pid === undefined || failure !== undefined) return
    dockerd.kill('SIGTERM')
    for (let waited = 0; failure === undefined && waited < 30_000; waited += 100) await sleep(100)
    if (failure !== undefined) return
    const containerd = aliveFromPidFile(containerdPidFile, 'containerd')
    dockerd.kill('SIGKILL')
    if (containerd) process.kill(containerd, 'SIGKILL')
    say('the Docker engine had to be killed')
  }
}

// ---- all of it ------------------------------------------------------------------------------------------------------

/** Dependencies, build and engine. Where it starts an engine, `onStart({pid, stop})` is called as it does. */
export async function setup(onStart) {
  install()
  await build()
  await engine(onStart)
}

/** For a person, who asked for an engine: it stays. */
async function engineToKeep() {
  let started
  await engine((one) => {
    started = one
  })
  if (started) say(`the Docker engine keeps running; to stop it: kill ${started.pid}`)
}

async function main([stage, ...rest]) {
  switch (stage) {
    case undefined:
      install()
      await build()
      return engineToKeep()
    case 'install':
      return install()
    case 'build':
      return build()
    case 'engine':
      return engineToKeep()
    case 'tools':
      return tools(rest)
    case 'newer-engine':
      process.stdout.write(newerEngine())
      return
    default:
      throw new SetupError(`unknown stage ${stage}: install, build, engine, tools or newer-engine`)
  }
}

/** Prints what went wrong: one line for what a person can mend, the stack for what is a fault in here. */
export function explain(error) {
  say(error instanceof SetupError ? error.message : error.stack)
}

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main(process.argv.slice(2)).catch((error) => {
    explain(error)
    process.exitCode = 1
  })
}
