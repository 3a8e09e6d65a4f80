// The chute that benchmarks publish: a web server that starts at once, so that what is measured is the mesh.
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BUSYBOX } from '../support/busybox.js'

export const COMMAND = ['sh', '-c', 'echo here > /tmp/index.html; exec httpd -f -p 8080 -h /tmp']
/** As Docker's API takes it, in nanoseconds; the same check as in the manifest. */
export const HEALTHCHECK = {
  Test: ['CMD', 'wget', '-q', '-O', '-', 'http://127.0.0.1:8080/'],
  Interval: 1e9,
  Timeout: 2e9,
  Retries: 3,
}

/** Writes it, with a port that the engine picks or with this one. */
export async function writeChute(dir: string, name: string, replicas: number, port?: number): Promise<string> {
  const folder = join(dir, name)
  await mkdir(folder, { recursive: true })
  const manifest = {
    name,
    services: {
      web: {
        image: BUSYBOX,
        command: COMMAND,
        ports: [port === undefined ? '8080' : `${port}:8080`],
        healthcheck: { test: HEALTHCHECK.Test, interval: '1s', timeout: '2s', retries: 3 },
        deploy: { replicas },
      },
    },
  }
  // JSON is YAML.
  await writeFile(join(folder, 'compose.yaml'), JSON.stringify(manifest, null, 2))
  return folder
}
