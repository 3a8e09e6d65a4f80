import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { PassThrough } from 'node:stream'
import Docker from 'dockerode'
import tar from 'tar-stream'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { type Host, makeHosts, removeLeftovers, whyNoHosts } from './hosts.js'
import { until } from './until.js'

const obstacle = whyNoHosts()
const hosts = suite(`hosts${obstacle ? ` (skipped: ${obstacle})` : ''}`)
// Where the whole check runs, a machine that cannot do this is a failure.
const test = obstacle && !process.env.CI ? hosts.skip : hosts

const serve = `require('net').createServer((s) => s.end('hello from ' + require('os').hostname())).listen(7000)`

/** What a TCP server on `address` says to `from`, or undefined where there is no answer within a second. */
async function greeting(from: Host, address: string): Promise<string | undefined> {
  const script = `const s = require('net').connect(7000, '${address}'); s.pipe(process.stdout); s.on('error', () => {})
    setTimeout(() => process.exit(1), 1000).unref()`
  const { stdout } = await from.run([process.execPath, '-e', script], { deadlineMs: 1_500 })
  return stdout || undefined
}

/** A UDP multicast that `to` joined and `from` sends to: what mDNS needs. */
async function multicastArrives(from: Host, to: Host): Promise<boolean> {
  const receive = `const s = require('dgram').createSocket('udp4')
    s.bind(5353, () => { s.addMembership('224.0.0.251'); console.log('listening') })
    s.on('message', (m) => { console.log('got ' + m); process.exit(0) })`
  const send = `require('dgram').createSocket('udp4').send('a question', 5353, '224.0.0.251', () => process.exit(0))`
  const receiver = to.exec([process.execPath, '-e', receive], { stdio: ['ignore', 'pipe', 'inherit'] })
  try {
    const output = gather(receiver)
    await until('a receiver', () => output().includes('listening'))
    await from.run([process.execPath, '-e', send])
    await until('the multicast', () => output().includes('got a question'), { deadlineMs: 3_000 })
    return true
  } finally {
    receiver.kill('SIGKILL')
  }
}

function gather(child: ChildProcess): () => string {
  let output = ''
  child.stdout?.on('data', (chunk) => {
    output += chunk
  })
  return () => output
}

/** Every trace of these hosts on the machine. */
function traces(host: Host): string[] {
  const run = host.name.replace(/-\d+$/, '')
  const places = ['/run/netns', tmpdir(), '/sys/fs/cgroup', '/sys/fs/cgroup/memory', '/sys/fs/cgroup/freezer']
  const named = places.filter(existsSync).flatMap((place) => readdirSync(place).map((name) => `${place}/${name}`))
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n')
  const processes = readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && commandLine(pid).includes(`${run}/`))
  return [...named, ...mounts].filter((trace) => trace.includes(run)).concat(processes.map(commandLine))
}

function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')
  } catch {
    return ''
  }
}

test('hosts reach each other by TCP and multicast, with names of their own', async () => {
  const lan = await makeHosts(2)
  try {
    const [a, b] = lan.hosts as [Host, Host]
    b.exec([process.execPath, '-e', serve])
    const heard = await until('the server', () => greeting(a, b.address))
    assert.is(heard, `hello from ${b.name}`)
    assert.ok(await multicastArrives(a, b))
    const { stdout } = await a.run(['ip', 'route'])
    assert.not.match(stdout, 'default')
  } finally {
    lan.close()
  }
})

test('a cut host is unreachable until it is healed', async () => {
  const lan = await makeHosts(2)
  try {
    const [a, b] = lan.hosts as [Host, Host]
    b.exec([process.execPath, '-e', serve])
    await until('the server', () => greeting(a, b.address))
    lan.cut(b)
    assert.is(await greeting(a, b.address), undefined)
    lan.heal(b)
    await until('the server again', () => greeting(a, b.address))
  } finally {
    lan.close()
  }
})

test('a block holds in its own direction, between its two hosts, until it is healed', async () => {
  const lan = await makeHosts(3)
  try {
    const [a, b, c] = lan.hosts as [Host, Host, Host]
    b.exec([process.execPath, '-e', serve])
    await until('the server', () => greeting(a, b.address))
    lan.block(a, b)
    lan.block(a, b) // twice is once
    assert.is(await greeting(a, b.address), undefined)
    assert.ok(await greeting(c, b.address))
    assert.ok(await multicastArrives(b, a), 'the other direction is open')
    lan.heal()
    await until('the server again', () => greeting(a, b.address))
  } finally {
    lan.close()
  }
})

test('a slowed host sends no faster than it may, until it is healed', async () => {
  const lan = await makeHosts(2)
  const take = `let n = 0; const began = Date.now()
    const s = require('net').connect(7000, '${lan.hosts[1]!.address}', () => s.resume()); s.on('data', (d) => { n += d.length })
    s.on('end', () => console.log(n / (Date.now() - began)))`
  try {
    const [a, b] = lan.hosts as [Host, Host]
    b.exec([process.execPath, '-e', `require('net').createServer((s) => s.end(Buffer.alloc(2e6))).listen(7000)`])
    const kilobytes = async () => Number((await a.run([process.execPath, '-e', take])).stdout)
    lan.slow(b, 8)
    const slowed = await until('the server', kilobytes)
    assert.ok(slowed < 1_200, `${slowed} kB/s`)
    lan.heal()
    const healed = await kilobytes()
    assert.ok(healed > 2 * slowed, `${healed} kB/s`)
  } finally {
    lan.close()
  }
})

test('each host has a Docker engine of its own, and nothing of it is left after close', async () => {
  const lan = await makeHosts(2, { docker: true })
  const [a, b] = lan.hosts as [Host, Host]
  try {
    const [first, second] = await Promise.all([dockerOf(a).info(), dockerOf(b).info()])
    assert.is(first.Name, a.name)
    assert.is(second.Name, b.name)
    const script = 'process.stdout.write(process.env.DOCKER_HOST)'
    assert.is((await a.run([process.execPath, '-e', script])).stdout, a.engine?.url)
    await sleeper(a)
    const paused = await sleeper(a)
    await paused.pause()
  } finally {
    lan.close()
  }
  assert.equal(traces(a), [])
})

test('a killed engine comes back with its data; its containers went with it, or stayed if told so; a frozen one says nothing', async () => {
  const lan = await makeHosts(1, { docker: true, dockerArgs: ['--live-restore'] })
  const [a] = lan.hosts as [Host]
  const program = a.exec(['sleep', '1000'], { stdio: 'ignore' })
  try {
    const container = await sleeper(a)
    const { Pid: pid } = (await container.inspect()).State

    await a.engine?.kill({ leaveContainers: true })
    assert.ok(commandLine(String(pid)))
    await a.engine?.start()
    assert.is((await container.inspect()).State.Pid, pid)

    await a.engine?.kill()
    assert.is(commandLine(String(pid)), '')
    assert.is(program.exitCode ?? program.signalCode, null, 'programs outside containers go on')
    await a.engine?.start()
    const { State } = await container.inspect()
    assert.is(State.Running, false)
    await container.start()

    a.engine?.freeze()
    assert.is(
      await Promise.race([container.inspect(), new Promise((resolve) => setTimeout(resolve, 500, 'silence'))]),
      'silence',
    )
    a.engine?.thaw()
    await container.inspect()

    await a.engine?.stop()
    await a.engine?.start()
    await container.start().catch((error) => assert.is(error.statusCode, 304))
    a.crash()
    await until('the end of the program', () => program.signalCode === 'SIGKILL')
    assert.ok(existsSync(a.engine?.folder ?? ''), 'its disk is still there')
    await a.engine?.start()
    await container.start()
  } finally {
    lan.close()
  }
  assert.equal(traces(a), [])
})

test('hosts go when their process ends, and are found afterwards where it was killed', async () => {
  const module = new URL('./hosts.js', import.meta.url).href
  const script = `import { makeHosts } from '${module}'
    const { hosts } = await makeHosts(1, { docker: true })
    console.log(hosts[0].name)
    setInterval(() => {}, 1000)`
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const output = gather(child)
    const name = await until('a host', () => output().trim(), { deadlineMs: 60_000 })
    child.kill(signal)
    await until('the end of its process', () => child.exitCode !== null || child.signalCode !== null)
    if (signal === 'SIGKILL') {
      assert.is.not(traces({ name } as Host).length, 0)
      assert.ok(removeLeftovers().includes(name.replace(/-1$/, '')))
    }
    assert.equal(traces({ name } as Host), [], signal)
  }
})

hosts.run()

function dockerOf(host: Host): Docker {
  assert.ok(host.engine)
  return new Docker({ socketPath: host.engine.socket })
}

/** A running container that needs no image: it sees the machine's own programs. */
async function sleeper(host: Host) {
  const docker = dockerOf(host)
  const empty = tar.pack()
  empty.finalize()
  const loaded = await docker.importImage(empty.pipe(new PassThrough()), { repo: 'empty', tag: '1' })
  loaded.resume()
  await new Promise((resolve) => loaded.on('end', resolve))
  const folders = ['/bin', '/lib', '/lib64', '/usr'].filter(existsSync)
  const container = await docker.createContainer({
    Image: 'empty:1',
    Cmd: ['/bin/sleep', '1000'],
    HostConfig: { Binds: folders.map((folder) => `${folder}:${folder}:ro`) },
  })
  await container.start()
  return container
}
