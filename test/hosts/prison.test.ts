// What a chute cannot reach, tried from inside a real container: its AP's services and sockets, other chutes. And what it can:
// its LAN. Two hosts: an AP, and some other machine on its LAN.
import Docker from 'dockerode'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { BUSYBOX, ensureBusybox } from '../support/busybox.js'
import { type Host, type Hosts, makeHosts, whyNoHosts } from '../support/hosts.js'
import { eventually, on, type TestAp, TestMesh } from '../support/mesh.js'

const obstacle = whyNoHosts()
const prison = suite(`prison${obstacle ? ` (skipped: ${obstacle})` : ''}`)
// Where the whole check runs, a machine that cannot do this is a failure.
const test = obstacle && !process.env.CI ? prison.skip : prison

const ENGINE_PORT = 2375
const SSH = 22
const DNS = 53
const PUBLISHED = 8080

const mesh = new TestMesh()
let lan: Hosts
let host: Host
let other: Host
let docker: Docker
let ap: TestAp
let nodePort: number
let neighbour: { address: string; gateway: string }

prison.before(async () => {
  if (obstacle) return
  lan = await makeHosts(2, { docker: true })
  host = lan.hosts[0]!
  other = lan.hosts[1]!
  docker = new Docker({ socketPath: host.engine!.socket })
  await ensureBusybox(docker)
  ap = await mesh.add('ap', on(host))
  nodePort = Number(/\/tcp\/(\d+)/.exec((await ap.status()).addresses.find((one) => one.includes(host.address))!)![1])
  // In place of what an AP may serve to its LAN.
  for (const [at, port] of [
    [host, SSH],
    [host, ENGINE_PORT],
    [host, DNS],
    [other, SSH],
  ] as const)
    at.exec(['busybox', 'httpd', '-f', '-p', String(port), '-h', '/usr/share/dict'], { stdio: 'ignore' })
  assert.is((await mesh.cli(['keys', 'new', 'alice'])).status, 0)
  await mesh.publish(ap, 'neighbour', {
    image: BUSYBOX,
    command: ['sh', '-c', 'echo secret >/tmp/index.html && exec httpd -f -p 8080 -h /tmp'],
    environment: { PASSWORD: 'of-the-neighbour' },
    ports: [`${PUBLISHED}:8080`],
  })
  await mesh.publish(ap, 'spy')
  const { Networks } = (await containerOf('neighbour').then((one) => one.inspect())).NetworkSettings
  const [network] = Object.values(Networks)
  neighbour = { address: network!.IPAddress, gateway: network!.Gateway }
})
prison.after(() => lan?.close())

async function containerOf(chute: string): Promise<Docker.Container> {
  const [found] = await docker.listContainers({ filters: { label: [`dropmesh.chute=${chute}`] } })
  return docker.getContainer(found!.Id)
}

/** What a line of shell prints in the spy's container. */
async function spy(line: string): Promise<string> {
  const options = { AttachStdout: true, AttachStderr: true, Tty: true }
  const exec = await (await containerOf('spy')).exec({ Cmd: ['sh', '-c', line], ...options })
  const stream = await exec.start({ Tty: true })
  let text = ''
  for await (const chunk of stream) text += chunk
  return text.replaceAll('\r\n', '\n').trim()
}

/** Tries to connect, and says what came of it. */
const connecting = (address: string, port: number) => `timeout 2 nc -w 1 ${address} ${port} </dev/null >/dev/null`
const tell = (command: string) => `if ${command}; then echo open; else echo closed; fi 2>/dev/null`

const gatewayOfSpy = async (): Promise<string> =>
  Object.values((await (await containerOf('spy')).inspect()).NetworkSettings.Networks)[0]!.Gateway

/** What each of these says, in one go. */
const tryAll = async (targets: readonly (readonly [string, number])[]): Promise<string[]> =>
  (await spy(targets.map(([address, port]) => tell(connecting(address, port))).join('; '))).split('\n')

const services = () => [SSH, ENGINE_PORT, nodePort]

async function assertShutOut(): Promise<void> {
  const addresses = [host.address, await gatewayOfSpy(), neighbour.gateway, '10.78.1.1']
  const targets = addresses.flatMap((address) => services().map((port) => [address, port] as const))
  const results = await tryAll(targets)
  for (const [i, [address, port]] of targets.entries()) assert.is(results[i], 'closed', `${address}:${port}`)
}

test('a chute reaches no service of its AP, by none of its addresses: not ssh, not the engine, not the node', async () => {
  for (const port of services()) {
    const fromLan = await other.run([
      'sh',
      '-c',
      tell(`busybox ${connecting(host.address, port).replace(' nc ', ' busybox nc ')}`),
    ])
    assert.is(fromLan.stdout.trim(), 'open', `${port} is open to the LAN`)
  }
  await assertShutOut()
})

test('a chute reaches the LAN, and its AP where that answers questions for names', async () => {
  assert.equal(await tryAll([[other.address, SSH] as const, [await gatewayOfSpy(), DNS] as const]), ['open', 'open'])
})

test('a chute reaches no other chute: not its container, not its published port, not its name', async () => {
  const fromLan = await other.run(['busybox', 'wget', '-q', '-O', '-', `http://${host.address}:${PUBLISHED}/`])
  assert.is(fromLan.stdout.trim(), 'secret')
  const targets = [neighbour.address, neighbour.gateway, host.address].map((address) => [address, 8080] as const)
  assert.equal(await tryAll(targets), ['closed', 'closed', 'closed'])
  const { Name } = await (await containerOf('neighbour')).inspect()
  for (const name of ['neighbour', Name.slice(1)])
    assert.not.match(await spy(`timeout 1 nslookup ${name}`), neighbour.address)
})

test('a chute sees nothing of another one: no environment, no process, no volume', async () => {
  const seen = await spy('cat /proc/*/environ /proc/*/cmdline /proc/mounts 2>/dev/null | tr "\\0" "\\n"; env; ls /proc')
  assert.match(seen, 'DROPMESH_CHUTE=spy')
  for (const secret of ['of-the-neighbour', 'DROPMESH_CHUTE=neighbour', 'httpd', 'neighbour.0'])
    assert.not(seen.includes(secret), secret)
})

test("a chute finds no socket of its node or its AP's engine, by file or by name", async () => {
  const found = await spy(
    'find / -type s 2>/dev/null; cut -c 54- /proc/net/unix; ls -d /var/run/docker.sock /run 2>/dev/null',
  )
  assert.not.match(found, /dropmesh|docker|containerd|sock/)
})

test('it is so again after the firewall was emptied and the engine restarted', async () => {
  const { code } = await host.run(['iptables', '-F', 'INPUT'])
  assert.is(code, 0)
  const [open] = await tryAll([[host.address, SSH]])
  assert.is(open, 'open', 'it is the rule that shuts it out')
  await host.engine!.stop()
  await host.engine!.start()
  await eventually('the spy to run again', async () =>
    (await ap.instances()).find((row) => row.chute === 'spy' && row.state === 'running'),
  )
  await eventually('its container to run', async () => (await (await containerOf('spy')).inspect()).State.Running)
  await assertShutOut()
  assert.not.match((await ap.status()).warnings.join(), 'reach the services')
})

prison.run()
