// publish → healthy on three APs, against plain `docker run` of the same image with the same health check.
import { connectDocker } from '../../node/chutes/docker-client.js'
import { BUSYBOX, ensureBusybox } from '../support/busybox.js'
import { TestMesh } from '../support/mesh.js'
import { until } from '../support/until.js'
import { COMMAND, HEALTHCHECK, writeChute } from './chute.js'
import { median, repeat, report, summary } from './measure.js'

const RUNS = 5
const COPIES = 3

export async function publish(): Promise<void> {
  const docker = connectDocker()
  await ensureBusybox(docker)
  const mesh = new TestMesh(docker)
  try {
    const [ap] = await mesh.start(COPIES)
    await mesh.cli(['keys', 'new', 'bench'])
    // The two take turns, so that both meet the same machine.
    const plain: number[] = []
    const published = await repeat(RUNS, async (run) => {
      plain.push(await timeOf(() => runPlain(run)))
      const folder = await writeChute(mesh.dir, `web${run}`, COPIES)
      const took = await timeOf(() => ap!.json('publish', folder))
      await ap!.json('rm', `web${run}`)
      await until(
        'the chute to be gone',
        async () => (await ap!.instances()).length === 0 && (await remaining()) === 0,
        {
          deadlineMs: 60_000,
        },
      )
      return took
    })
    report(`${COPIES} copies of one image until healthy (checked each second)`, [
      `dropmesh publish on ${COPIES} APs   ${summary(published, 's')}`,
      `${COPIES} times docker run          ${summary(plain, 's')}`,
      `ratio                       ${(median(published) / median(plain)).toFixed(2)}`,
    ])
  } finally {
    await mesh.close()
  }

  async function remaining(): Promise<number> {
    const label = [`dropmesh.mesh=${await mesh.meshId()}`]
    return (await docker.listContainers({ all: true, filters: { label } })).length
  }

  async function runPlain(run: number): Promise<void> {
    const containers = await Promise.all(
      Array.from({ length: COPIES }, async (_, copy) => {
        const container = await docker.createContainer({
          name: `dropmesh-bench-${process.pid}-${run}-${copy}`,
          Image: BUSYBOX,
          Cmd: COMMAND,
          Labels: { 'dropmesh.test': 'bench' },
          Healthcheck: HEALTHCHECK,
          ExposedPorts: { '8080/tcp': {} },
          HostConfig: { PortBindings: { '8080/tcp': [{}] }, Init: true },
        })
        await container.start()
        return container
      }),
    )
    try {
      await until(
        'all containers to be healthy',
        async () => {
          const states = await Promise.all(containers.map((container) => container.inspect()))
          return states.every(({ State }) => State.Health?.Status === 'healthy')
        },
        { deadlineMs: 60_000 },
      )
    } finally {
      void Promise.all(containers.map((container) => container.remove({ force: true }).catch(() => {})))
    }
  }
}

async function timeOf(what: () => Promise<unknown>): Promise<number> {
  const before = performance.now()
  await what()
  return (performance.now() - before) / 1000
}
