import { createServer } from 'node:http'

const { DROPMESH_CHUTE, DROPMESH_INSTANCE, DROPMESH_AP, DROPMESH_EPOCH } = process.env

createServer((_request, response) => {
  response.setHeader('content-type', 'text/plain; charset=utf-8')
  response.end(
    `Hello from ${DROPMESH_CHUTE}, instance ${DROPMESH_INSTANCE}, on AP ${DROPMESH_AP}, epoch ${DROPMESH_EPOCH}\n`,
  )
}).listen(8080)

process.on('SIGTERM', () => process.exit(0))
